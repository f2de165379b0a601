"""When requests will end, by what is known of every lane."""

import math
from collections.abc import Callable, Mapping

from app.engine.costs import Ahead, Costs, Forecast, forecast, solo
from app.engine.job import SamplingParams
from app.engine.model_info import LaneId, ModelInfo
from app.engine.stats import Stats
from app.engine.wire import Load, Progress

_MEMORY = 10.0  # seconds after which what a lane did counts 1/e in what it is taken to go on doing
_RESIDUAL = 0.25  # of another lane's tick, which may run when a request comes: half of it, at times
_ROUNDS = 8  # of a fixed point


class _Recent:
    """What a lane was asked for and did of late: sums that fade."""

    def __init__(self, now: float) -> None:
        self._asked = self._made = self._seconds = 0.0
        self._at = now

    def add(self, now: float, *, asked: int = 0, made: int = 0, seconds: float = 0.0) -> None:
        """Rows that were asked for, rows that were made, and the device's seconds for these."""
        fade = math.exp((self._at - now) / _MEMORY)
        self._asked = self._asked * fade + asked
        self._made = self._made * fade + made
        self._seconds = self._seconds * fade + seconds
        self._at = now

    def rate(self, now: float) -> float:
        """Seconds of the device per second."""
        return self._seconds * math.exp((self._at - now) / _MEMORY) / _MEMORY

    @property
    def replaced(self) -> float:
        """The part of what was done that as much came for: 1 in a steady state, 0 at the end."""
        return min(self._asked / self._made, 1.0) if self._made else 1.0


class Forecasts:
    """Costs and forecasts by lane, for the buckets that the settings allow."""

    def __init__(self, load: Load, stats: Stats, clock: Callable[[], float]) -> None:
        self._load, self._stats, self._clock = load, stats, clock
        self._recent: dict[LaneId, _Recent] = {}
        self.models: Mapping[str, ModelInfo] = {}

    def costs(self, lane: LaneId) -> Costs:
        """What a lane's ticks cost, as it learned; until then as measured, by the image's size."""
        known = self._stats.lanes.get(lane)
        info = self.models[lane.model]
        if known and known.costs:
            costs = known.costs
        else:
            area = lane.width * lane.height / (info.sizes.width * info.sizes.height)
            costs = info.costs if area == 1 else info.costs.times(area)
        return costs if self._load.rows is None else costs.up_to(self._load.rows)

    def came(self, params: SamplingParams) -> None:
        """Note a request."""
        self._of(params.lane).add(self._clock(), asked=params.work)

    def note(self, progress: Progress) -> None:
        """Note what the lanes had of the device."""
        for lane in progress.lanes:
            recent = self._of(lane.lane)
            recent.add(self._clock(), made=lane.rows, seconds=lane.expected)

    def forecast(
        self,
        params: SamplingParams,
        ahead: Ahead,
        beside: Mapping[LaneId, Ahead],
        *,
        images: int,
        work: int,
        evaluations: int | None = None,
    ) -> Forecast:
        """When so many images, with so many rows in all, have their slots, and when they end.

        `ahead` lies before them in their lane, `beside` is what other lanes have.
        """
        told = forecast(
            self.costs(params.lane),
            ahead,
            self._load.slots or self.models[params.model].slots,
            evaluations=evaluations or params.evaluations,
            images=images,
            rows=work,
            slowness=self._stats.slowness,
            replaced=self._of(params.lane).replaced,
        )
        now = self._clock()
        rates = {lane: recent.rate(now) for lane, recent in self._recent.items()}
        others = [
            (self._seconds(lane, work), rates.get(lane, 0.0), self._residual(lane, work))
            for lane, work in beside.items()
        ]
        wait = _shared(told.wait, others)
        return Forecast(wait, wait + _shared(told.end - told.wait, others))

    def _of(self, lane: LaneId) -> _Recent:
        return self._recent.setdefault(lane, _Recent(self._clock()))

    def _seconds(self, lane: LaneId, work: Ahead) -> float:
        """About how long the device has to do for a lane: all of its images, side by side."""
        evaluations = max(work.rows / max(work.images, 1), 1)
        each = solo(self.costs(lane), evaluations=evaluations, rows=work.rows)
        return self._stats.slowness * each

    def _residual(self, lane: LaneId, work: Ahead) -> float:
        """How long a tick of another lane, which is not interrupted, holds up a request."""
        return _RESIDUAL * self.costs(lane).up_to(max(work.images, 1)).best.seconds


def _shared(seconds: float, others: list[tuple[float, float, float]]) -> float:
    """How long a lane takes for what would take so many seconds if it were alone.

    While it works, every other lane has as much time as it has, as long as there is something to do
    (turns.py). `others` are (seconds to do, seconds that come per second, the least it may take).
    """
    total = seconds
    for _ in range(_ROUNDS):
        total = seconds + sum(
            min(work + rate * total, max(seconds, least)) for work, rate, least in others
        )
    return total
