"""What is known of jobs, their events and webhooks, read when somebody asks."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_STATUSES = ("queued", "running", "succeeded", "failed", "canceled")


class Hub(Protocol):
    """Tells clients of their jobs' events."""

    @property
    def dropped(self) -> int:
        """How many gave way to newer ones before a reader took them."""


class Hooks(Protocol):
    """Calls the addresses that jobs name."""

    @property
    def counts(self) -> Mapping[str, int]:
        """How many calls there were, by outcome."""


class Jobs(Protocol):
    """The jobs of a server."""

    @property
    def hub(self) -> Hub:
        """Tells of their events."""

    def counts(self) -> Mapping[str, int]:
        """How many there are, by status."""


class JobsCollector(Collector):
    """The numbers of the jobs of a server, and of its webhooks."""

    def __init__(self, jobs: Jobs, hooks: Hooks) -> None:
        self._jobs, self._hooks = jobs, hooks

    def describe(self) -> Iterable[Metric]:
        """Nothing: no other collector has these names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        jobs = GaugeMetricFamily("darkroom_jobs", "Jobs that are kept.", labels=("status",))
        for status, count in (dict.fromkeys(_STATUSES, 0) | dict(self._jobs.counts())).items():
            jobs.add_metric((status,), count)
        yield jobs
        yield CounterMetricFamily(
            "darkroom_previews_dropped",
            "Events of jobs that gave way to newer ones, because a reader was slow.",
            value=self._jobs.hub.dropped,
        )
        calls = CounterMetricFamily(
            "darkroom_webhook_deliveries", "Calls of webhooks, by outcome.", labels=("outcome",)
        )
        for outcome, count in self._hooks.counts.items():
            calls.add_metric((outcome,), count)
        yield calls
