"""Many clients with mixed requests: our server, its loop without a server, and the peer."""

import json
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.parts import send
from benchmarks.results import between_answers, good, percentile
from benchmarks.sending import Run
from benchmarks.servers import OURS, Running, call
from benchmarks.stable_diffusion.servers import DTYPES, NAMES, engine, started
from benchmarks.workload import rows

CLIENTS = 8
_POLL = 0.5  # seconds
Sample = tuple[float, int]  # when, and the rows that had been run


@dataclass
class Served:
    """One server under load. Rates per second."""

    images: float
    rows: float  # of images that were answered in the window
    p50: float | None  # seconds per request
    p95: float | None
    failed: int
    run: float | None = None  # rows that the engine ran; ours alone tells


@dataclass
class Scaled:
    """Everything, once per round: dtype -> measurements."""

    bare: dict[str, list[float]] = field(default_factory=dict)  # rows/s
    bare_images: dict[str, list[float]] = field(default_factory=dict)  # per second
    served: dict[str, dict[str, list[Served]]] = field(default_factory=dict)  # and by server


def measure(folder: Path, side: int, seconds: float, warmup: float, rounds: int) -> Scaled:
    """Every server alone, one after the other; our loop right before ours and right after it."""
    found = Scaled()
    for stream in range(1, rounds + 1):
        for dtype in DTYPES:
            arguments = {"stream": stream, "seconds": seconds, "warmup": warmup}
            loops = [bare(folder, dtype, arguments)]
            for name in NAMES:
                with started(name, folder, dtype) as one:
                    made = under_load(name, one, side, arguments)
                found.served.setdefault(dtype, {}).setdefault(name, []).append(made)
                click.echo(f"  {name}, {dtype}: {made}")
                loops += [bare(folder, dtype, arguments)] if name == OURS else []
            ran, images = (statistics.mean(one) for one in zip(*loops, strict=True))
            found.bare.setdefault(dtype, []).append(ran)
            found.bare_images.setdefault(dtype, []).append(images)
    return found


def bare(folder: Path, dtype: str, arguments: dict[str, float]) -> tuple[float, float]:
    """Rows and images per second of our loop without a server."""
    told = json.dumps({"in_flight": CLIENTS, **arguments})
    pace = call("benchmarks.stable_diffusion.bare", str(folder), dtype, told)
    made = pace["rows"] / pace["seconds"], pace["images"] / pace["seconds"]
    click.echo(f"  our loop, {dtype}: {made[0]:.2f} rows/s, {made[1]:.3f} images/s")
    return made


def under_load(name: str, one: Running, side: int, arguments: dict[str, float]) -> Served:
    """A closed loop of prompts, and beside it what our engine counts."""
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(
            send, one.url, "closed", clients=CLIENTS, prompts=True, side=side, **arguments
        )
        samples = watched(one, sent) if name == OURS else []
        run = sent.result()
    window = arguments["warmup"], arguments["seconds"]
    return figures(run, steady(samples, *window) if samples else None)


def watched(one: Running, sent: "Future[Run]") -> list[Sample]:
    """The engine's count of rows while requests are sent."""
    samples = []
    while not sent.done():
        samples.append((time.perf_counter(), int(engine(one)["rows"])))
        time.sleep(_POLL)
    return samples


def steady(samples: Sequence[Sample], warmup: float, seconds: float) -> float:
    """Rows per second in the window: from `warmup` after the first row on, for `seconds`."""
    began = next(when for when, count in samples if count > samples[0][1])
    inside = [(at, n) for at, n in samples if warmup <= at - began <= warmup + seconds]
    (first, before), (last, after) = inside[0], inside[-1]
    return (after - before) / (last - first)


def figures(run: Run, ran: float | None) -> Served:
    """Reduce a run to what was answered within the window."""
    finished = [answer for answer in run.answers if 0 < answer.ended <= run.window]
    done, elapsed = good(finished), between_answers(run)
    waited = [answer.seconds for answer in done]
    return Served(
        images=len(done) / elapsed,
        rows=sum(rows(answer.steps, answer.guidance_scale) for answer in done) / elapsed,
        p50=percentile(waited, 0.5),
        p95=percentile(waited, 0.95),
        failed=len(finished) - len(done),
        run=ran,
    )
