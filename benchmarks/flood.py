"""A quiet client beside one that floods: how long it waits, and whether it is refused.

    python -m benchmarks.flood
    python -m benchmarks.flood --only "ten steps" --seconds 5 --out runs/bench

The quiet client sends one request after the other from 127.0.0.1, first alone, then beside a flood
of 600 connections from 127.0.0.2, each of which sends its next request when it has the answer to
its last. Writes flood.md. All of it takes about three minutes.
"""

import contextlib
import itertools
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import Any

import click
import httpx

from benchmarks.report import table
from benchmarks.servers import SERVERS, group, running
from benchmarks.serving import about

QUIET: dict[str, Any] = {"class": "7", "steps": 10}
WITHIN = 4  # times what the quiet client takes alone
_SEED = 10**9  # where the quiet client's seeds begin; the flood's stay below
_PATIENCE = 60.0  # seconds the quiet client waits for an answer
_SETTLE = 2.0  # seconds a flood lasts before it is measured
_RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Flood:
    """The request that every connection of a flood sends repeatedly."""

    body: dict[str, Any] | None = None  # of a POST /generate; a GET of `path` without one
    path: str = "/generate"
    accept: str = "image/png"


FLOODS = {
    "ten steps": Flood({"steps": 10}),
    "ten steps, priority 10": Flood({"steps": 10, "priority": 10}),
    "a hundred steps, sixteen images": Flood({"steps": 100, "n": 16}, accept="application/zip"),
    "one step": Flood({"steps": 1}),
    "deadlines that cannot be met": Flood({"steps": 100, "timeout": 1}),
    "fifty steps, as events": Flood({"steps": 50}, accept="text/event-stream"),
    "invalid requests": Flood({"steps": 0}),
    "GET /livez": Flood(path="/livez"),
}


@dataclass
class Quiet:
    """How the quiet client fared."""

    seconds: list[float]
    statuses: Counter[int]  # 0 where there was no answer

    @property
    def cells(self) -> tuple[str, ...]:
        """Requests, p50, p95, and the number of answers other than 200."""
        ordered = sorted(self.seconds)
        p95 = ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)]
        refused = sum(self.statuses.values()) - self.statuses[200]
        middle = statistics.median(ordered)
        return str(len(ordered)), f"{middle:.3f}", f"{p95:.3f}", str(refused)


@click.command()
@click.option("--only", type=click.Choice(list(FLOODS)), multiple=True, help="Repeat for several.")
@click.option("--connections", default=600, show_default=True, help="Connections of the flood.")
@click.option("--seconds", default=15.0, show_default=True, help="Length of each measurement.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(only: tuple[str, ...], connections: int, seconds: float, out: Path) -> None:
    """Measure every flood, or those asked for, and write the table."""
    heads = ("flood", "requests", "p50 s", "p95 s", "errors", "flood's answers per second")
    rows = []
    seeds = itertools.count(_SEED)
    with running(SERVERS["ours"]) as server:
        server.wait(server.server.ready)
        ask(server.url, 1.0, seeds)
        rows.append(("none", *ask(server.url, seconds, seeds).cells, ""))
        click.echo(rows[-1])
        for number, name in enumerate(only or FLOODS):
            arguments = (name, str(server.port), str(connections), str(number))
            with group(("-m", "benchmarks.flooding", *arguments), {}, stdout=PIPE) as flood:
                time.sleep(_SETTLE)
                quiet = ask(server.url, seconds, seeds)
                flood.terminate()
                told, _ = flood.communicate()
            rows.append((name, *quiet.cells, answers(json.loads(told))))
            click.echo(rows[-1])
            rest(server.url)
    lines = ["# A quiet client beside a flood", "", f"Written by `python -m {__spec__.name}`.", ""]
    lines += [*table(("", ""), about(seconds).items()), ""]
    lines += [
        f"A flood has {connections} connections. Goal: a p95 of at most {WITHIN} times the first:"
    ]
    lines += ["", *table(heads, rows)]
    out.mkdir(parents=True, exist_ok=True)
    (out / "flood.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def ask(url: str, seconds: float, seeds: Iterator[int]) -> Quiet:
    """Send one request after the other for `seconds`."""
    quiet = Quiet([], Counter())
    end = time.perf_counter() + seconds
    with httpx.Client(base_url=url, timeout=_PATIENCE) as client:
        while (began := time.perf_counter()) < end:
            status = 0
            with contextlib.suppress(httpx.TransportError):
                status = client.post("/generate", json=QUIET | {"seed": next(seeds)}).status_code
            quiet.seconds.append(time.perf_counter() - began)
            quiet.statuses[status] += 1
    return quiet


def answers(flood: dict[str, Any]) -> str:
    """A flood's answers per second, by status."""
    each = flood["statuses"].items()
    return ", ".join(f"{count / flood['seconds']:.0f} x {status}" for status, count in sorted(each))


def rest(url: str) -> None:
    """Wait until nothing of a flood is left."""
    while httpx.get(f"{url}/engine", timeout=60).json()["jobs"]:
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
