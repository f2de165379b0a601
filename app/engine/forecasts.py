"""When requests will end, by what is known of every lane."""

import math
from collections.abc import Callable, Mapping

from app.engine.costs import Ahead, Costs, Forecast, forecast, solo
from app.engine.job import SamplingParams
from app.engine.model_info import LaneId, ModelInfo
from app.engine.stats import Stats
from app.engine.wire import Load, Progress

_MEMORY = 10.0  # seconds after which what a lane did counts 1/e in what it is taken to go on doing
# What comes later to the same lane is served beside what runs, the long of it only in part. By
# simulation (tests/app/test_lanes.py), so much of it is done before that ends.
_LATER = 0.35
_MOST_LATER = 0.9  # of the device: more comes than can be done, and waits
_RESIDUAL = 0.25  # of another lane's tick, which may run when a request comes: half of it, at times
_ROUNDS = 8  # of a fixed point


class _Recent:
    """Seconds of the device that a lane had per second, of late."""

    def __init__(self, now: float) -> None:
        self._sum, self._at = 0.0, now

    def add(self, seconds: float, now: float) -> None:
        """It had so many more."""
        self._sum, self._at = self._kept(now) + seconds, now

    def rate(self, now: float) -> float:
        """Seconds per second."""
        return self._kept(now) / _MEMORY

    def _kept(self, now: float) -> float:
        return self._sum * math.exp((self._at - now) / _MEMORY)


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

    def note(self, progress: Progress) -> None:
        """Note what the lanes had of the device."""
        now = self._clock()
        for lane in progress.lanes:
            self._recent.setdefault(lane.lane, _Recent(now)).add(lane.expected, now)

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
        )
        now = self._clock()
        rates = {lane: recent.rate(now) for lane, recent in self._recent.items()}
        own = min(rates.pop(params.lane, 0.0), _MOST_LATER) if ahead.images else 0.0
        others = [
            (self._seconds(lane, work), rates.get(lane, 0.0), self._residual(lane, work))
            for lane, work in beside.items()
        ]
        wait = _shared(told.wait, 0.0, others)  # who comes later waits longer
        return Forecast(wait, wait + _shared(told.end - told.wait, _LATER * own, others))

    def _seconds(self, lane: LaneId, work: Ahead) -> float:
        """About how long the device has to do for a lane: all of its images, side by side."""
        evaluations = max(work.rows / max(work.images, 1), 1)
        each = solo(self.costs(lane), evaluations=evaluations, rows=work.rows)
        return self._stats.slowness * each

    def _residual(self, lane: LaneId, work: Ahead) -> float:
        """How long a tick of another lane, which is not interrupted, holds up a request."""
        return _RESIDUAL * self.costs(lane).up_to(max(work.images, 1)).best.seconds


def _shared(seconds: float, later: float, others: list[tuple[float, float, float]]) -> float:
    """How long a lane takes for what takes so many seconds if nothing else comes or is there.

    `later` is what comes to the lane meanwhile and is served before, in seconds per second. While
    it works, every other lane has as much time as it has, as long as there is something to do
    (turns.py). `others` are (seconds to do, seconds that come per second, the least it may take).
    """
    total = seconds
    for _ in range(_ROUNDS):
        mine = seconds + later * total
        total = mine + sum(
            min(work + rate * total, max(mine, least)) for work, rate, least in others
        )
    return total
