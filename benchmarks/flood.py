"""A quiet client beside one that floods: how long it waits, and whether it is refused.

    python -m benchmarks.flood
    python -m benchmarks.flood --only "ten steps" --seconds 5 --out runs/bench
    python -m benchmarks.flood --keys
    python -m benchmarks.flood --keys --apart

The quiet client sends one request after the other from 127.0.0.1, first alone, then beside a flood
of 600 connections from 127.0.0.2, each of which sends its next request when it has the answer to
its last. With `--keys`, both come from one address, each with a key of its own; that of the flood
has a rate and a concurrency, by default a tenth of what two cores can do. The cost of a wrong key
is measured, too. With `--apart`, the server has one half of the cores and the clients the other, as
if they had machines of their own. Writes flood.md, flood_keys.md or the same with `_apart`. All of
it takes about three minutes.
"""

import contextlib
import itertools
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import PIPE
from typing import Any

import click
import httpx

from benchmarks.report import table
from benchmarks.servers import SERVERS, Running, group, running
from benchmarks.serving import about

QUIET: dict[str, Any] = {"class": "7", "steps": 10}
WITHIN, WITHIN_KEYS = 4, 1.5  # times what the quiet client takes alone
_KEYS = {name: f"dk_{name}_{'0123456789' * 4}" for name in ("quiet", "flood")}
_LIMITS = "rate=150/second concurrency=20"
_OTHER = "127.0.0.2"  # any of 127.0.0.0/8 is this machine's own, and another than the quiet one's
_WRONG, _WRONG_EACH = 10, 100  # addresses with wrong keys, and requests of each: none is delayed
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
    def p95(self) -> float:
        """In seconds."""
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * 0.95), len(ordered) - 1)]

    @property
    def cells(self) -> tuple[str, ...]:
        """Requests, p50, p95, and the number of answers other than 200."""
        refused = sum(self.statuses.values()) - self.statuses[200]
        middle = statistics.median(self.seconds)
        return str(len(self.seconds)), f"{middle:.3f}", f"{self.p95:.3f}", str(refused)


@click.command()
@click.option("--only", type=click.Choice(list(FLOODS)), multiple=True, help="Repeat for several.")
@click.option("--connections", default=600, show_default=True, help="Connections of the flood.")
@click.option("--seconds", default=15.0, show_default=True, help="Length of each measurement.")
@click.option("--keys", is_flag=True, help="One address and two keys, instead of two addresses.")
@click.option("--apart", is_flag=True, help="Clients share no core with the server.")
@click.option("--limits", default=_LIMITS, show_default=True, help="Of the flood's key.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(
    only: tuple[str, ...],
    connections: int,
    seconds: float,
    limits: str,
    out: Path,
    *,
    keys: bool,
    apart: bool,
) -> None:
    """Measure every flood, or those asked for, and write the table."""
    heads = ("flood", "requests", "p50 s", "p95 s", "errors", "p95 / alone", "flood's answers/s")
    rows: list[tuple[str, ...]] = []
    seeds = itertools.count(_SEED)
    known = f"quiet: {_KEYS['quiet']},flood: {_KEYS['flood']} {limits}"
    settings = {"DARKROOM_API_KEYS": known}
    headers = {"x-api-key": _KEYS["quiet"]} if keys else {}
    told = ("--key", _KEYS["flood"]) if keys else ("--address", _OTHER)
    cost = ""
    ours, theirs = halves() if apart else (os.sched_getaffinity(0),) * 2
    os.sched_setaffinity(0, ours)  # the server and its workers inherit it
    with running(replace(SERVERS["ours"], settings=settings if keys else {})) as server:
        os.sched_setaffinity(0, theirs)
        server.wait(server.server.ready)
        client = httpx.Client(base_url=server.url, timeout=_PATIENCE, headers=headers)
        ask(client, 1.0, seeds)
        alone = ask(client, seconds, seeds)
        rows.append(("none", *alone.cells, "", ""))
        click.echo(rows[-1])
        if keys:
            cost = f"A wrong key costs {wrong_key_seconds(server) * 1000:.2f} ms of processor time."
            click.echo(cost)
        for number, name in enumerate(only or FLOODS):
            arguments = (name, str(server.port), str(connections), str(number), *told)
            with group(("-m", "benchmarks.flooding", *arguments), {}, stdout=PIPE) as flood:
                time.sleep(_SETTLE)
                quiet = ask(client, seconds, seeds)
                flood.terminate()
                said, _ = flood.communicate()
            ratio = f"{quiet.p95 / alone.p95:.2f}"
            rows.append((name, *quiet.cells, ratio, answers(json.loads(said))))
            click.echo(rows[-1])
            rest(client)
    lines = ["# A quiet client beside a flood", "", f"Written by `python -m {__spec__.name}`.", ""]
    lines += [*table(("", ""), about(seconds).items()), ""]
    limited = f" Its key has {limits}, in evaluations." if keys else ""
    cores = f" The server has {len(ours)} of the cores, the clients the others." if apart else ""
    lines += [
        f"A flood has {connections} connections.{limited}{cores} Goal: a p95 of at most"
        f" {WITHIN_KEYS if keys else WITHIN} times the first:"
    ]
    lines += ["", *table(heads, rows), *(["", cost] if cost else [])]
    out.mkdir(parents=True, exist_ok=True)
    name = f"flood{'_keys' if keys else ''}{'_apart' if apart else ''}.md"
    (out / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def halves() -> tuple[set[int], set[int]]:
    """The cores of this process, in two parts without one in common."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise click.ClickException("--apart needs two cores; this process may use one")
    half = len(cores) // 2
    return set(cores[:half]), set(cores[half:])


def ask(client: httpx.Client, seconds: float, seeds: Iterator[int]) -> Quiet:
    """Send one request after the other for `seconds`."""
    quiet = Quiet([], Counter())
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        status = 0
        with contextlib.suppress(httpx.TransportError):
            status = client.post("/generate", json=QUIET | {"seed": next(seeds)}).status_code
        quiet.seconds.append(time.perf_counter() - began)
        quiet.statuses[status] += 1
    return quiet


def wrong_key_seconds(server: Running) -> float:
    """Processor time of the server for a request with a wrong key, all that HTTP takes included."""
    began = server.cpu_seconds()
    for number in range(_WRONG):
        transport = httpx.HTTPTransport(local_address=f"127.0.1.{number + 1}")
        with httpx.Client(base_url=server.url, transport=transport) as client:
            for _ in range(_WRONG_EACH):
                answer = client.post("/generate", json=QUIET, headers={"x-api-key": "wrong"})
                assert answer.status_code in (401, 429), answer.text
    return (server.cpu_seconds() - began) / (_WRONG * _WRONG_EACH)


def answers(flood: dict[str, Any]) -> str:
    """A flood's answers per second, by status."""
    each = flood["statuses"].items()
    return ", ".join(f"{count / flood['seconds']:.0f} x {status}" for status, count in sorted(each))


def rest(client: httpx.Client) -> None:
    """Wait until nothing of a flood is left."""
    while client.get("/engine").json()["jobs"]:
        time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
