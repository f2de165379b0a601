"""One life of the worker: a process, and the socket to talk to it over."""

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Protocol

from app.engine.wire import Command, Event, Load, pack, read_event

WORKER = (sys.executable, "-m", "app.engine.worker")
_GRACE_SECONDS = 10.0  # to end a tick; then it is killed


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
