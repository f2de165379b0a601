"""What becomes of jobs, told to whoever follows them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
from pydantic import BaseModel


@dataclass(frozen=True)
class JobEvent:
    """One thing that became of a job; `final`: it is its end."""

    name: str  # queued, progress, preview, succeeded, failed, canceled
    data: BaseModel | msgspec.Struct
    final: bool = False


class EventHub:
    """Passes events on to those who follow the jobs of an owner."""

    def __init__(self) -> None:
        self.dropped = 0

    def publish(self, owner: str, job_id: str, event: JobEvent) -> None:
        """Tell of an event. It never waits."""

    async def subscribe(self, owner: str, last_event_id: str | None) -> AsyncIterator[bytes]:
        """The events of an owner's jobs from now on, as lines of a stream."""
        del owner, last_event_id
        for nothing in list[bytes]():
            yield nothing
