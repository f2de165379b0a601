"""What is measured: the numbers behind the tables, and how a run becomes one row of them.

Units are seconds, bytes and rows per second. A row is one evaluation of the UNet.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.sending import Answer, Run
from benchmarks.workload import rows

PATIENCE = 3  # a request is answered in time within this many times its solo time

Solo = Mapping[str, float]  # kind of request -> seconds


def kind(steps: int, guidance_scale: float) -> str:
    """A kind of request: all of a kind share one solo time."""
    return f"{steps} steps, guidance {guidance_scale:g}"


def solo_times(run: Run) -> dict[str, float]:
    """The median seconds of every kind of request, sent one by one."""
    times: dict[str, list[float]] = {}
    for answer in good(run.answers):
        times.setdefault(kind(answer.steps, answer.guidance_scale), []).append(answer.seconds)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def good(answers: Sequence[Answer]) -> list[Answer]:
    """The answers that brought an image."""
    return [answer for answer in answers if answer.status == 200]


def percentile(seconds: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of all do not exceed; None if it is infinite."""
    ordered = sorted(seconds)
    value = ordered[max(math.ceil(share * len(ordered)) - 1, 0)] if ordered else math.inf
    return None if math.isinf(value) else value


@dataclass(frozen=True)
class Figures:
    """One measurement of a server under load."""

    images_per_second: float
    rows_per_second: float
    p50: float | None  # None: unknown, because too many had no answer
    p95: float | None
    p99: float | None
    in_time: float  # share of all requests
    failed: int  # answers other than 200
    unanswered: int
    window: float
    server_cores: float  # processor seconds of the server per second
    load_cpu: float  # processor seconds of the load generator per request
    seconds: list[float]  # every request that brought an image

    @classmethod
    def of(cls, run: Run, solo: Solo, server_cores: float, *, by_arrival: bool) -> "Figures":
        """Reduce a run.

        Images and rows are those finished within the window. The other figures are of the same
        requests or, `by_arrival`, of those that were due within the window.
        """
        finished = [a for a in run.answers if 0 < a.ended <= run.window]
        counted = [a for a in run.answers if 0 <= a.began < run.window] if by_arrival else finished
        elapsed = run.window if by_arrival else between_answers(run)
        done, served = good(finished), good(counted)
        waited = [a.seconds for a in served] + [math.inf] * run.unanswered
        in_time = [a.seconds <= PATIENCE * solo[kind(a.steps, a.guidance_scale)] for a in served]
        return cls(
            images_per_second=len(done) / elapsed,
            rows_per_second=sum(rows(a.steps, a.guidance_scale) for a in done) / elapsed,
            p50=percentile(waited, 0.5),
            p95=percentile(waited, 0.95),
            p99=percentile(waited, 0.99),
            in_time=sum(in_time) / max(len(counted) + run.unanswered, 1),
            failed=len(counted) - len(served),
            unanswered=run.unanswered,
            window=run.window,
            server_cores=server_cores,
            load_cpu=run.cpu / max(len(run.answers), 1),
            seconds=[round(a.seconds, 4) for a in served],
        )

    @property
    def answered(self) -> float:
        """Share of all requests that brought an image."""
        return len(self.seconds) / max(len(self.seconds) + self.failed + self.unanswered, 1)


def between_answers(run: Run) -> float:
    """Seconds from the last answer before the window to the last one in it; infinite for none.

    A server of batches answers in bursts. The window itself would hold one burst too many or too
    few, which at a batch of 64 is a tenth of all it does.
    """
    begin = max((a.ended for a in run.answers if a.ended <= 0), default=None)
    if begin is None:
        begin = min(a.began for a in run.answers)
    last = max((a.ended for a in run.answers if 0 < a.ended <= run.window), default=math.inf)
    return last - begin


@dataclass(frozen=True)
class Limit:
    """The most that the machine can do. The loops: rows per batch -> rows per second."""

    flops: float  # per second, of float32 matrix products
    flops_a_row: float  # per row of the UNet
    ours: dict[str, float]
    diffusers: dict[str, float]

    @property
    def best_of_ours(self) -> float:
        """Rows per second with the best batch size."""
        return max(self.ours.values())


@dataclass
class Load:
    """Servers under load, by the name of the server."""

    solo: dict[str, dict[str, float]] = field(default_factory=dict)
    closed: dict[str, dict[int, Figures]] = field(default_factory=dict)  # clients ->
    loop: dict[int, float] = field(default_factory=dict)  # requests in flight -> rows/s of ours
    opened: dict[str, dict[float, Figures]] = field(default_factory=dict)  # requests per second ->
    shares: dict[float, float] = field(
        default_factory=dict
    )  # requests per second -> share of capacity


@dataclass(frozen=True)
class Fairness:
    """Short requests beside a crowd of long ones."""

    clients: int  # that send short requests, one after the other
    kind: str
    requests: int
    solo: float  # median, on an idle server
    p50: float | None
    p95: float | None
    long_finished: int


@dataclass(frozen=True)
class Start:
    """Seconds from the start of the process, one entry a start."""

    live: list[float]
    ready: list[float]
    image: list[float]


@dataclass(frozen=True)
class Previews:
    """What following requests costs. Way of asking -> rows per second, one entry per round."""

    clients: int
    rows_per_second: dict[str, list[float]]


@dataclass
class Results:
    """All results; None for parts that were not asked for."""

    about: dict[str, str]
    limit: Limit | None = None
    load: Load | None = None
    fairness: list[Fairness] | None = None
    previews: Previews | None = None
    start: dict[str, Start] | None = None  # by the name of the server
    memory: dict[int, int] | None = None  # requests so far -> resident bytes
