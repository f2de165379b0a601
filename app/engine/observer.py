"""Who is told of requests as they end: nobody, unless the server puts somebody there."""

import time
from dataclasses import dataclass, field

from app.engine.job import Request
from app.engine.results import Result


@dataclass
class Drawing:
    """One request to the engine, and what became of it; `encode` is in seconds."""

    request: Request
    began: float = field(default_factory=time.monotonic)
    began_ns: int = field(default_factory=time.time_ns)  # since the epoch
    ended: float = 0.0  # time.monotonic()
    result: Result | None = None
    error: BaseException | None = None  # CancelledError where nobody waits any more
    encode: float = 0.0  # of its files, so far

    @property
    def seconds(self) -> float:
        """From its beginning to its images, or to its failure."""
        return self.ended - self.began


class Observer:
    """Told of requests by the event loop; does nothing."""

    def drawn(self, drawing: Drawing) -> None:
        """Note that a request has ended, whichever way."""

    def encoded(self, request: Request, seconds: float) -> None:
        """Note that its images were written as files."""
