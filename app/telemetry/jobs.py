"""What is known of jobs, their events and webhooks, read when somebody asks."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATUSES = ("queued", "running", "succeeded", "failed", "canceled")


class Hub(Protocol):
    """Tells clients of their jobs' events."""

    dropped: int  # that gave way to newer ones before a reader took them


class Hooks(Protocol):
    """Calls the addresses that jobs name."""

    counts: Mapping[str, int]  # by outcome


class Jobs(Protocol):
    """The jobs of a server."""

    hub: Hub

    def counts(self) -> Mapping[str, int]:
        """How many there are, by status."""


class JobsCollector(Collector):
    """The numbers of whatever `jobs` and `hooks` return by then; None has none."""

    def __init__(self, jobs: Callable[[], Jobs | None], hooks: Callable[[], Hooks | None]) -> None:
        self._jobs, self._hooks = jobs, hooks

    def describe(self) -> Iterable[Metric]:
        """Nothing: it is told when there are jobs."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, each of them even if it has no series."""
        jobs, hooks = self._jobs(), self._hooks()
        family = GaugeMetricFamily("darkroom_jobs", "Jobs that are kept.", labels=("status",))
        dropped = CounterMetricFamily(
            "darkroom_previews_dropped",
            "Events of jobs that gave way to newer ones, because a reader was slow.",
        )
        if jobs is not None:
            for status, count in (dict.fromkeys(_STATUSES, 0) | dict(jobs.counts())).items():
                family.add_metric((status,), count)
            dropped.add_metric((), jobs.hub.dropped)
        yield from (family, dropped)
        calls = CounterMetricFamily(
            "darkroom_webhook_deliveries", "Calls of webhooks, by outcome.", labels=("outcome",)
        )
        if hooks is not None:
            for outcome, count in hooks.counts.items():
                calls.add_metric((outcome,), count)
        yield calls
