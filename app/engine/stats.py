"""What the engine did since the server started, and its pace by lane."""

import math
from dataclasses import dataclass, field

from app.engine.costs import Costs
from app.engine.model_info import LaneId
from app.engine.wire import LaneProgress, Progress

_MEMORY = 3.0  # seconds of ticks by which what a lane did before counts 1/e
_MEMORY_TICKS = 4  # the same for long ticks
_MOST_SLOWNESS = 10.0  # a longer stall is not the usual pace
_RECENT = 30.0  # seconds of work by which what counted for the efficiency counts 1/e


@dataclass
class _Pace:
    """How long ticks took of late, and what they should have taken: sums that fade.

    A report has the seconds of one tick and the expectation of the next, so no report is looked at
    alone.
    """

    seconds: float = _MEMORY
    expected: float = _MEMORY

    def add(self, seconds: float, expected: float, ticks: int) -> None:
        """Note so many ticks."""
        memory = max(_MEMORY, _MEMORY_TICKS * expected / max(ticks, 1))
        self._fade(math.exp(-expected / memory), seconds, expected)

    def rest(self, passed: float, usual: float) -> None:
        """Note that there were none for so long: what was, counts less, and what is usual, more."""
        kept = math.exp(-passed / _MEMORY)
        expected = (1 - kept) * _MEMORY
        self._fade(kept, usual * expected, expected)

    @property
    def slowness(self) -> float:
        """Their quotient."""
        return min(self.seconds / self.expected, _MOST_SLOWNESS)

    def _fade(self, kept: float, seconds: float, expected: float) -> None:
        self.seconds = self.seconds * kept + seconds
        self.expected = self.expected * kept + expected


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
    seconds: float = 0.0  # in which there was work
    _pace: _Pace = field(default_factory=_Pace)
    _useful: float = 0.0  # sums that fade: the seconds that the rows need at the best rate,
    _worked: float = 0.0  # and those that they took

    @property
    def efficiency(self) -> float | None:
        """Rows per second of late, by those of full ticks alone; None before the first tick.

        Ticks with few rows lower it, and so does another lane that has work.
        """
        return self._useful / self._worked if self._worked else None

    def note(self, progress: LaneProgress, passed: float, usual: float) -> None:
        """Count what a lane did in the `passed` seconds; `usual` is the slowness of all lanes."""
        self.ticks += progress.ticks
        self.rows += progress.rows
        self.padding += progress.padding
        self.running = progress.running
        self.costs = progress.costs or self.costs
        self.seconds += progress.seconds
        if self.costs and progress.seconds:
            kept = math.exp(-progress.seconds / _RECENT)
            self._useful = self._useful * kept + progress.rows / self.costs.best.rate
            self._worked = self._worked * kept + progress.seconds
        if progress.seconds:
            self._pace.add(progress.seconds, progress.expected, progress.ticks)
        else:
            self._pace.rest(passed, usual)
        self.slowness = self._pace.slowness


@dataclass
class Stats:
    """All workers of the device; ticks, rows and padding are counts."""

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    running: int = 0  # slots taken at the last report
    shared: int = 0  # requests that an equal one in flight answered
    cancelled: int = 0
    cancel_ticks: int = 0  # the most ticks from a client's disconnect until its slots were free
    slowness: float = 1.0  # of the device: time of recent ticks, divided by what was expected
    lanes: dict[LaneId, LaneStats] = field(default_factory=dict)  # those that there are
    _pace: _Pace = field(default_factory=_Pace)

    def note(self, progress: Progress) -> None:
        """Count what a worker did, in all of its lanes."""
        told = {lane.lane for lane in progress.lanes}
        models = {lane.model for lane in told}
        for gone in [lane for lane in self.lanes if lane.model in models and lane not in told]:
            del self.lanes[gone]
        for lane in progress.lanes:
            self.ticks += lane.ticks
            self.rows += lane.rows
            self.padding += lane.padding
        if expected := sum(lane.expected for lane in progress.lanes):
            self._pace.add(progress.seconds, expected, sum(lane.ticks for lane in progress.lanes))
            self.slowness = self._pace.slowness
        for lane in progress.lanes:
            stats = self.lanes.setdefault(lane.lane, LaneStats())
            stats.note(lane, progress.seconds, self.slowness)
        self.running = sum(lane.running for lane in self.lanes.values())

    def forget(self, model: str) -> None:
        """Forget the lanes of a worker that is no more, and the pace if it was the only one."""
        for lane in [lane for lane in self.lanes if lane.model == model]:
            del self.lanes[lane]
        self.running = sum(lane.running for lane in self.lanes.values())
        if not self.lanes:
            self._pace, self.slowness = _Pace(), 1.0
