"""The worker's lives: a process and the socket to talk to it over, and a new one when it dies."""

import asyncio
import contextlib
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from app.engine.wire import Command, Event, Load, Ready, Refused, Stop, pack, read_event

log = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "app.engine.worker")
_GRACE_SECONDS = 10.0  # to end a tick; then it is killed
_FIRST_STARTS = 3  # tries to load at all, where the worker dies of it without a reason
_LONGEST_PAUSE = 30.0  # seconds between starts of a worker that dies while it loads


class Process(Protocol):
    """What is asked of a process."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, -9 for a signal 9; raises `TimeoutExpired`."""

    def kill(self) -> None:
        """End it at once."""


class WorkerProcess:
    """Started when made, so that it loads while the server is still coming up.

    Both ends of the socket close with their process: neither outlives the other.
    """

    def __init__(self, load: Load, command: Sequence[str] = WORKER) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            self.process = self._spawn(command, theirs)
        self._ours.sendall(pack(load))
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def _spawn(self, command: Sequence[str], connection: socket.socket) -> Process:
        """A process in a group of its own: Ctrl-C in the terminal is the server's to handle."""
        number = connection.fileno()
        return subprocess.Popen([*command, str(number)], pass_fds=[number], process_group=0)

    async def attach(self) -> None:
        """Talk to it from the running event loop from now on."""
        self._ours.setblocking(False)
        self._streams = await asyncio.open_connection(sock=self._ours)

    async def event(self) -> Event | None:
        """What it says next; None when it is gone."""
        assert self._streams is not None, "attach() comes first"
        return await read_event(self._streams[0])

    def send(self, command: Command) -> None:
        """Say something; lost where the worker is gone, which `event` tells."""
        if self._streams is not None and not self._streams[1].is_closing():
            self._streams[1].write(pack(command))

    async def end(self, grace: float = _GRACE_SECONDS) -> int:
        """Wait for its end, for so long, then kill it; its exit status."""
        with contextlib.suppress(OSError, RuntimeError):
            if self._streams is None:
                self._ours.shutdown(socket.SHUT_RDWR)
            else:
                self._streams[1].close()
        try:
            return await asyncio.to_thread(self.process.wait, grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return await asyncio.to_thread(self.process.wait)


class Supervisor:
    """Keeps a worker: starts it anew when it dies, later and later while it cannot load.

    `handle` is told what a worker says, `buried` when one died. `refused` is called when the models
    do not load and never have: a reason to stop the server.
    """

    def __init__(
        self,
        load: Load,
        start: Callable[[Load], WorkerProcess],
        handle: Callable[[Event], None],
        buried: Callable[[], None],
    ) -> None:
        self._load, self._start, self._handle, self._buried = load, start, handle, buried
        self._task: asyncio.Task[None] | None = None
        self._has_loaded = self._closing = False
        self.worker: WorkerProcess | None = None
        self.up = False  # a worker is there and warm
        self.restarts = 0
        self.fault: str | None = None  # why no worker can be had
        self.refused: Callable[[], None] = lambda: None

    def launch(self) -> None:
        """Start a worker now: it loads while the rest of the server comes up."""
        if self.worker is None:
            self.worker = self._start(self._load)

    def watch(self) -> None:
        """Look after a worker from now on."""
        self.launch()
        self._task = asyncio.create_task(self._supervise())

    def send(self, command: Command) -> None:
        """Say something to the worker, if there is one."""
        if self.worker is not None:
            self.worker.send(command)

    async def close(self) -> None:
        """Stop the worker for good."""
        self._closing = True
        if self.worker is not None:
            self.worker.send(Stop())
            await self.worker.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _supervise(self) -> None:
        failures = 0
        while not self._closing and self.fault is None:
            try:
                self.launch()
            except OSError as error:  # no processes, files or memory to be had, just now
                failures += 1
                log.error("no worker can be started: %s", error)
                await asyncio.sleep(_pause(failures))
                continue
            assert self.worker is not None
            await self.worker.attach()
            while (event := await self.worker.event()) is not None:
                self._listen(event)
            loaded, self.up = self.up, False
            status = await self.worker.end()
            self.worker = None
            if self._closing or self.fault is not None:
                break
            failures = 0 if loaded else failures + 1
            log.error("the worker died (status %d)", status)
            if not self._has_loaded and failures >= _FIRST_STARTS:
                self._give_up(f"the worker died {failures} times while loading")
            self.restarts += 1
            self._buried()
            await asyncio.sleep(_pause(failures))
        if self.fault is not None:
            self._buried()

    def _listen(self, event: Event) -> None:
        if isinstance(event, Ready):
            self.up = self._has_loaded = True
        elif isinstance(event, Refused):
            if self._has_loaded:
                log.error("the models do not load any more: %s", event.reason)
            else:
                self._give_up(event.reason)
        self._handle(event)

    def _give_up(self, reason: str) -> None:
        self.fault = reason
        self.refused()


def _pause(failures: int) -> float:
    """Seconds before a worker is started after so many that did not load."""
    return min(2.0 ** min(failures, 10) - 1, _LONGEST_PAUSE)
