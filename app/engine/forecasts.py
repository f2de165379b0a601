"""When requests will end, by what is known of every lane."""

from collections.abc import Mapping

from app.engine.costs import Ahead, Costs, Forecast, forecast, solo
from app.engine.job import SamplingParams
from app.engine.model_info import LaneId, ModelInfo
from app.engine.stats import Stats
from app.engine.wire import Load


class Forecasts:
    """Costs and forecasts by lane, for the buckets that the settings allow."""

    def __init__(self, load: Load, stats: Stats) -> None:
        self._load, self._stats = load, stats
        self.models: Mapping[str, ModelInfo] = {}

    def costs(self, lane: LaneId) -> Costs:
        """What a lane's ticks cost, as it learned; until then as measured, by the image's size."""
        known = self._stats.lanes.get(lane)
        info = self.models[lane.model]
        if known and known.costs:
            costs = known.costs
        else:
            costs = info.costs
            area = lane.width * lane.height / (info.sizes.width * info.sizes.height)
            costs = costs if area == 1 else costs.times(area)
        return costs if self._load.rows is None else costs.up_to(self._load.rows)

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
        lane = params.lane
        told = forecast(
            self.costs(lane),
            ahead,
            self._load.slots or self.models[params.model].slots,
            evaluations=evaluations or params.evaluations,
            images=images,
            rows=work,
            slowness=self._stats.slowness,
        )
        others = [self._seconds(other, work) for other, work in beside.items()]
        return Forecast(self._shared(lane, told.wait, others), self._shared(lane, told.end, others))

    def _shared(self, lane: LaneId, seconds: float, others: list[float]) -> float:
        """How long a lane takes for what would take so many seconds if it were the only one.

        While it works, every other lane has as much time as it has, as long as there is something
        to do (turns.py). What will come to the other lanes is not known; if they had more of the
        device of late than their work explains, it goes on like that.
        """
        if not others:
            return seconds
        device, known = self._stats.slowness, self._stats.lanes.get(lane)
        of_late = known.slowness / device if known else 1.0
        return max(seconds + sum(min(other, seconds) for other in others), seconds * of_late)

    def _seconds(self, lane: LaneId, work: Ahead) -> float:
        """About how long the device has to do for a lane: all of its images, side by side."""
        evaluations = max(work.rows / max(work.images, 1), 1)
        return self._stats.slowness * solo(
            self.costs(lane), evaluations=evaluations, rows=work.rows
        )
