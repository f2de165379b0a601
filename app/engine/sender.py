"""What a worker says to the server, and signs of life while it can say nothing else."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Protocol

from app.engine.wire import Event, Loading, pack

_BEAT_SECONDS = 0.5


class Opening(Protocol):
    """Says what model is being opened, or `waiting` for that."""

    def __call__(self, model: str, *, waiting: bool = False) -> None:
        """From now on, it is this one."""


class Sender:
    """The worker's end of the socket, for writing."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._writing = threading.RLock()  # while something is opened, two threads do

    def emit(self, event: Event) -> None:
        """Send an event; if the server is gone, whoever reads from it will notice."""
        with self._writing, contextlib.suppress(OSError):
            self._connection.sendall(pack(event))

    @contextlib.contextmanager
    def signs_of_life(self) -> Iterator[Opening]:
        """Say at intervals what model is being opened, which is to be named first."""
        opening, over = Loading(""), threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_SECONDS):
                with self._writing:
                    self.emit(opening)

        def name(model: str, *, waiting: bool = False) -> None:
            nonlocal opening
            with self._writing:  # after this, no sign of life may name the model before
                opening = Loading(model, waiting)
                self.emit(opening)
            if not beats.is_alive():
                beats.start()

        beats = threading.Thread(target=beat, name="heartbeat", daemon=True)
        try:
            yield name
        finally:
            over.set()
            if beats.is_alive():
                beats.join()
