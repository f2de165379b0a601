"""What the engine knows of itself, read when somebody asks: gauges, and counters by lane.

A lane or a model that is gone has no series, because nothing is kept here.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from app.engine.client import EngineClient
from app.engine.model_info import LaneId
from app.engine.process import resident_bytes
from app.telemetry.metrics import Metrics, lane_labels

_LANE = ("model", "lane")
_NO_LANE = "none"  # of requests that wait for a lane to be made: clients choose their sizes


class EngineCollector(Collector):
    """The engine's numbers; drops the series in `metrics` of lanes that are gone."""

    def __init__(self, engine: EngineClient, metrics: Metrics, version: str) -> None:
        self._engine, self._metrics, self._version = engine, metrics, version

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on the models."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, each of them even if it has no series."""
        self._metrics.forget(self._engine.stats.lanes.keys() | self._own_lanes())
        yield from self._service()
        yield from self._requests()
        yield from self._lanes()

    def _own_lanes(self) -> set[LaneId]:
        return {info.lane for info in self._engine.models.values()}

    def _service(self) -> Iterator[Metric]:
        engine, fleet = self._engine, self._engine.fleet
        build = {"version": self._version, "python": platform.python_version()}
        yield InfoMetricFamily("darkroom_build", "What is running.", build)
        yield GaugeMetricFamily(
            "darkroom_ready", "Whether requests are served: 1 or 0.", int(engine.ready)
        )
        yield CounterMetricFamily("darkroom_worker_restarts", "Workers that died.", fleet.restarts)
        yield CounterMetricFamily(
            "darkroom_requests_shared",
            "Requests that an equal one in flight answered.",
            engine.stats.shared,
        )
        models = GaugeMetricFamily(
            "darkroom_model_info",
            "1 for each model that was loaded, also if it is unloaded by now.",
            labels=("model", "backend", "device", "dtype"),
        )
        for info in engine.models.values():
            models.add_metric((info.name, info.backend, info.device, info.dtype), 1)
        yield models
        loads = GaugeMetricFamily(
            "darkroom_model_load_seconds",
            "What it took to load a model, the last time.",
            labels=("model",),
        )
        for model, seconds in fleet.crew.load_seconds.items():
            if model in engine.models:
                loads.add_metric((model,), seconds)
        yield loads
        memory = GaugeMetricFamily(
            "darkroom_memory_bytes",
            "Resident memory of the server and of its workers; shared pages count in each.",
            labels=("process", "model"),
        )
        pids = {("server", ""): os.getpid()}
        pids |= {("worker", name): each.process.pid for name, each in fleet.workers.items()}
        for labels, pid in pids.items():
            if (size := resident_bytes(pid)) is not None:
                memory.add_metric(labels, size)
        yield memory

    def _requests(self) -> Iterator[Metric]:
        engine, lanes = self._engine, self._engine.stats.lanes.keys() | self._own_lanes()
        counts = Counter(
            (request.riding, request.params.model, _size(request.params.lane, lanes))
            for request in engine.requests
        )
        known = {lane_labels(lane) for lane in lanes} | {(model, size) for _, model, size in counts}
        for riding, name, told in (
            (True, "running", "Requests that have begun."),
            (False, "waiting", "Requests whose first step is still to come."),
        ):
            family = GaugeMetricFamily(f"darkroom_requests_{name}", told, labels=_LANE)
            for labels in sorted(known):
                family.add_metric(labels, counts[(riding, *labels)])
            yield family

    def _lanes(self) -> Iterator[Metric]:
        tick_seconds = SummaryMetricFamily(
            "darkroom_tick_seconds",
            "Time of ticks, while the lane had work: sum and number.",
            labels=_LANE,
        )
        tick_rows = SummaryMetricFamily(
            "darkroom_tick_rows", "Rows of ticks that were wanted: sum and number.", labels=_LANE
        )
        rows = CounterMetricFamily(
            "darkroom_rows", "Rows of the network that were wanted.", labels=_LANE
        )
        padding = CounterMetricFamily(
            "darkroom_padding_rows", "Empty rows that filled ticks.", labels=_LANE
        )
        slots = GaugeMetricFamily("darkroom_slots_used", "Images in flight.", labels=_LANE)
        slowness = GaugeMetricFamily(
            "darkroom_slowness",
            "Time of recent ticks by what they take alone on a quiet device.",
            labels=_LANE,
        )
        efficiency = GaugeMetricFamily(
            "darkroom_efficiency",
            "Rows per second of recent work by those of full ticks alone on a quiet device.",
            labels=_LANE,
        )
        best = GaugeMetricFamily(
            "darkroom_best_rows_per_second",
            "Rows per second of full ticks alone on a quiet device.",
            labels=_LANE,
        )
        for lane, stats in self._engine.stats.lanes.items():
            labels = lane_labels(lane)
            tick_seconds.add_metric(labels, stats.ticks, stats.seconds)
            tick_rows.add_metric(labels, stats.ticks, stats.rows)
            rows.add_metric(labels, stats.rows)
            padding.add_metric(labels, stats.padding)
            slots.add_metric(labels, stats.running)
            slowness.add_metric(labels, stats.slowness)
            if (value := stats.efficiency) is not None:
                efficiency.add_metric(labels, value)
            if stats.costs:
                best.add_metric(labels, stats.costs.best.rate)
        yield from (tick_seconds, tick_rows, rows, padding, slots, slowness, efficiency, best)


def _size(lane: LaneId, known: set[LaneId]) -> str:
    return lane_labels(lane)[1] if lane in known else _NO_LANE
