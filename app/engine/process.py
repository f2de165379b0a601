"""A worker's process, and the socket to talk to it over."""

import asyncio
import contextlib
import logging
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from app.engine.outgoing import Outgoing
from app.engine.wire import Cancelled, Command, Done, Event, Failed, Load, Submit, pack, read_event

log = logging.getLogger(__name__)

# -P: the folder that the server was started in may hold an app.py or a models/ of its own.
WORKER = (sys.executable, "-P", "-m", "app.engine.worker")
_CODE = str(Path(__file__).parents[2])  # where `app` and `models` are that the server runs
_KILLED_SECONDS = 5.0  # for the system to end a process it was told to end
_POLL_SECONDS = 0.02


class Process(Protocol):
    """The interface of a process."""

    pid: int

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status, -9 for signal 9; raise `TimeoutExpired`."""

    def kill(self) -> None:
        """Kill it."""


class WorkerProcess:
    """Started when made, so that it loads while the server is still coming up.

    Both ends of the socket close with their process: neither outlives the other.
    """

    def __init__(self, load: Load, command: Sequence[str] = WORKER) -> None:
        self._ours, theirs = socket.socketpair()
        with theirs:
            arguments = (*command, str(theirs.fileno()), load.log_format)
            self.process = self._spawn(arguments, theirs, load.turnstile)
        self._ours.sendall(pack(load))
        self._in: asyncio.StreamReader | None = None
        self._out: Outgoing | None = None
        self.owed: set[int] = set()  # jobs it was sent and has not answered
        self.heard = 0  # messages

    def _spawn(
        self, command: Sequence[str], connection: socket.socket, turnstile: int | None
    ) -> Process:
        """A process in a group of its own: Ctrl-C in the terminal is the server's to handle.

        It runs in a folder that always exists, because PyTorch needs one, even if the server's was
        deleted.
        """
        number = connection.fileno()
        given = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
        path = os.pathsep.join([_CODE, *map(os.path.abspath, given)])
        return subprocess.Popen(
            command,
            pass_fds=[number] if turnstile is None else [number, turnstile],
            process_group=0,
            cwd="/",
            env={**os.environ, "PYTHONPATH": path},
        )

    async def attach(self) -> None:
        """Connect to it from the running event loop."""
        self._ours.setblocking(False)
        self._in, self._writer = await asyncio.open_connection(sock=self._ours)
        self._out = Outgoing(self._writer.transport)

    async def event(self) -> Event | None:
        """Return its next event; None when it is gone. Raises `MsgspecError`."""
        assert self._in is not None, "attach() comes first"
        event = await read_event(self._in)
        self.heard += 1
        if isinstance(event, Done | Failed | Cancelled):
            self.owed.discard(event.job_id)
        return event

    def send(self, command: Command) -> None:
        """Send a command; it is lost if the worker is gone, which `event` reports."""
        if isinstance(command, Submit):
            self.owed.add(command.job_id)
        if self._out is not None and not self._out.is_closing():
            self._out.write(pack(command))

    async def end(self, grace: float) -> int | None:
        """Wait `grace` seconds for its end, then kill it; its exit status, None if it runs on."""
        with contextlib.suppress(OSError, RuntimeError):
            if self._out is None:
                self._ours.shutdown(socket.SHUT_RDWR)
            else:
                self._out.close()
        status = await self._status(grace)
        if status is None:
            self.process.kill()
            status = await self._status(_KILLED_SECONDS)
        if status is None:
            log.error("process %d was killed but does not end; it is left alone", self.process.pid)
        return status

    async def _status(self, seconds: float) -> int | None:
        """Wait `seconds` for its exit status; None if it still runs then.

        Without a thread: those of the event loop may all be at work.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(0)
            if loop.time() >= end:
                return None
            await asyncio.sleep(_POLL_SECONDS)


def resident_bytes(pid: int) -> int | None:
    """Resident memory of a process; None if there is none."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except (OSError, IndexError):
        return None
