"""What the engine did since the server started, and its pace by lane."""

import math
from dataclasses import dataclass, field

from app.engine.costs import Costs
from app.engine.model_info import LaneId
from app.engine.wire import LaneProgress, Progress

_MEMORY = 3.0  # seconds of ticks by which what a lane did before counts 1/e
_MEMORY_TICKS = 4  # the same for long ticks
_MOST_SLOWNESS = 10.0  # a longer stall is not the usual pace


@dataclass
class LaneStats:
    """One lane: counts since it was made, what is known of its ticks, and its pace.

    `slowness` is the time that its recent ticks took, divided by what they take alone on a quiet
    device: where two lanes have work, about 2.
    """

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    running: int = 0  # slots taken at the last report
    slowness: float = 1.0
    costs: Costs | None = None  # as learned; None until they are told
    _seconds: float = _MEMORY  # recent ones, in which it had work
    _expected: float = _MEMORY  # what its ticks in these should have taken

    def note(self, progress: LaneProgress, passed: float, usual: float) -> None:
        """Count what a lane did in the `passed` seconds; `usual` is the slowness of all lanes."""
        self.ticks += progress.ticks
        self.rows += progress.rows
        self.padding += progress.padding
        self.running = progress.running
        self.costs = progress.costs or self.costs
        if progress.seconds:
            seconds, expected = progress.seconds, progress.expected
            memory = max(_MEMORY, _MEMORY_TICKS * expected / max(progress.ticks, 1))
            kept = math.exp(-expected / memory)
        else:  # it was idle, and what was, counts less and less
            kept = math.exp(-passed / _MEMORY)
            expected = (1 - kept) * _MEMORY
            seconds = usual * expected
        self._seconds = self._seconds * kept + seconds
        self._expected = self._expected * kept + expected
        self.slowness = min(self._seconds / self._expected, _MOST_SLOWNESS)


@dataclass
class Stats:
    """The whole engine; ticks, rows and padding are counts."""

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    running: int = 0  # slots taken at the last report
    shared: int = 0  # requests that an equal one in flight answered
    cancelled: int = 0
    cancel_ticks: int = 0  # the most ticks from a client's disconnect until its slots were free
    slowness: float = 1.0  # of the device: time of recent ticks, divided by what was expected
    lanes: dict[LaneId, LaneStats] = field(default_factory=dict)

    def note(self, progress: Progress) -> None:
        """Count what a worker did."""
        for lane in progress.lanes:
            self.ticks += lane.ticks
            self.rows += lane.rows
            self.padding += lane.padding
        self.running = sum(lane.running for lane in progress.lanes)
        if expected := sum(lane.expected for lane in progress.lanes):
            share = min(progress.seconds, 1.0)  # a second's worth of news counts in full
            news = min(progress.seconds / expected, _MOST_SLOWNESS)
            self.slowness += share * (news - self.slowness)
        for lane in progress.lanes:
            stats = self.lanes.setdefault(lane.lane, LaneStats())
            stats.note(lane, progress.seconds, self.slowness)

    def renew(self) -> None:
        """Forget the pace, which was that of another worker."""
        self.slowness = 1.0
        self.lanes.clear()
