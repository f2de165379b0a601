"""Counters and histograms of what was asked and drawn, in a registry of their own.

What the engine itself knows is read when it is asked for: collector.py. Labels never hold what a
client wrote, so their number is bounded.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Set

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

from app.engine.model_info import LaneId
from app.engine.observer import Drawing
from app.errors import REASONS
from app.telemetry.account import Account

# Seconds. OpenTelemetry's of `gen_ai.server.request.duration`, and two for long deadlines.
_REQUEST_BUCKETS = tuple(0.01 * 2**k for k in range(16))
_STAGE_BUCKETS = tuple(0.001 * 4**k for k in range(9))
_STAGES = ("queue", "denoise", "vae_decode", "image_encode")
_MOST_LANES = 64  # that have series; the longest unused give way
_KEPT_SECONDS = 60.0  # the series of a lane that is gone, so that the last scrape has its end
_NOWHERE = "none"  # the endpoint of what no route has
_LEFT = 499  # status of what a client did not wait for; nginx's
_LANE = ("model", "lane")


def lane_labels(lane: LaneId) -> tuple[str, str]:
    """The values of the labels `model` and `lane`."""
    return lane.model, f"{lane.width}x{lane.height}"


class _LaneMeters:
    """The children of one lane: to look them up by label takes longer than to count."""

    def __init__(self, meters: "Metrics", labels: tuple[str, str]) -> None:
        self.used = 0.0  # time of the clock
        self.images = meters.images.labels(*labels)
        self.evaluations = meters.evaluations.labels(*labels)
        self.cancelled = meters.cancelled.labels(*labels)
        self.queue = meters.queue.labels(*labels)
        self.duration = meters.duration.labels(*labels)
        self.stages = {stage: meters.stages.labels(*labels, stage) for stage in _STAGES}


class Metrics:
    """What is counted as requests end; `registry` has it, and whatever else is registered there."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        # Else there is a series more for each; Prometheus knows when it first saw one.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        self._clock = clock
        self._lanes: OrderedDict[LaneId, _LaneMeters] = OrderedDict()  # the longest unused first
        self.requests = Counter(
            "darkroom_requests",
            "Requests that were answered, by route and status; 499: the client left.",
            ("endpoint", "status"),
            registry=registry,
        )
        self.rejected = Counter(
            "darkroom_requests_rejected",
            "Requests that were refused or failed, by reason.",
            ("reason",),
            registry=registry,
        )
        for reason in REASONS:
            self.rejected.labels(reason)  # 0 from the beginning, so that a rate sees the first
        self.cancelled = Counter(
            "darkroom_requests_cancelled",
            "Requests whose client left before their images were there.",
            _LANE,
            registry=registry,
        )
        self.images = Counter("darkroom_images", "Images drawn.", _LANE, registry=registry)
        self.evaluations = Counter(
            "darkroom_evaluations",
            "Evaluations of the network, of the images drawn; guidance aside.",
            _LANE,
            registry=registry,
        )
        self.queue = Histogram(
            "darkroom_request_queue_seconds",
            "Time until the first step of a request.",
            _LANE,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.duration = Histogram(
            "darkroom_request_duration_seconds",
            "Time from a request to its images, without writing them as files.",
            _LANE,
            buckets=_REQUEST_BUCKETS,
            registry=registry,
        )
        self.stages = Histogram(
            "darkroom_stage_duration_seconds",
            "Time of a request in each stage.",
            (*_LANE, "stage"),
            buckets=_STAGE_BUCKETS,
            registry=registry,
        )
        self._by_lane: tuple[MetricWrapperBase, ...] = (
            self.cancelled,
            self.images,
            self.evaluations,
            self.queue,
            self.duration,
            self.stages,
        )

    def answered(self, account: Account) -> None:
        """Count a request that has ended."""
        status = _LEFT if account.left else account.status
        self.requests.labels(account.route or _NOWHERE, str(status)).inc()
        if account.reason:
            self.rejected.labels(account.reason).inc()

    def drawn(self, drawing: Drawing) -> None:
        """Count what the engine was asked for, and the seconds that it took."""
        params, result = drawing.request.params, drawing.result
        meters = self._meters(params.lane)
        if isinstance(drawing.error, asyncio.CancelledError):
            meters.cancelled.inc()
        if result is None:
            return
        meters.images.inc(params.n)
        meters.evaluations.inc(params.n * params.evaluations)
        meters.queue.observe(result.queue)
        meters.duration.observe(drawing.seconds)
        meters.stages["queue"].observe(result.queue)
        meters.stages["denoise"].observe(result.denoise)
        meters.stages["vae_decode"].observe(result.decode)

    def encoded(self, lane: LaneId, seconds: float) -> None:
        """Count the seconds that it took to write images as files."""
        self._meters(lane).stages["image_encode"].observe(seconds)

    def forget(self, living: Set[LaneId]) -> None:
        """Drop the series of lanes that are not among these, some time after their last request."""
        old = self._clock() - _KEPT_SECONDS
        for lane, meters in list(self._lanes.items()):
            if lane not in living and meters.used < old:
                self._drop(lane)

    def _meters(self, lane: LaneId) -> _LaneMeters:
        meters = self._lanes.get(lane)
        if meters is None:
            if len(self._lanes) >= _MOST_LANES:
                self._drop(next(iter(self._lanes)))
            meters = self._lanes[lane] = _LaneMeters(self, lane_labels(lane))
        self._lanes.move_to_end(lane)
        meters.used = self._clock()
        return meters

    def _drop(self, lane: LaneId) -> None:
        del self._lanes[lane]
        model, size = lane_labels(lane)
        for metric in self._by_lane:
            metric.remove_by_labels({"model": model, "lane": size})
