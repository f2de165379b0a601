"""The parts of the benchmark, each a function from nothing but sizes to numbers."""

import json
import statistics
import time
from collections.abc import Sequence

import click

from benchmarks.load import SHORT_STEPS
from benchmarks.results import (
    Fairness,
    Figures,
    Limit,
    Load,
    Previews,
    Solo,
    Start,
    between_answers,
    good,
    kind,
    percentile,
    solo_times,
)
from benchmarks.sending import Answer, Run
from benchmarks.servers import OURS, SERVERS, Running, call, running
from benchmarks.workload import GUIDANCE_SCALES, STEPS, Request, rows

CLIENTS = (1, 4, 16, 64)  # of the closed loop
SHARES = (0.25, 0.5, 0.75, 0.9)  # of the yardstick's capacity, for the open loop
CHECKPOINTS = (100, 500, 1_000, 2_000, 5_000)  # requests after which memory is read
ROUNDS, STARTS = 3, 3
SOLO_ROUNDS = 5
LONG_CLIENTS, SHORT_CLIENTS = 32, (1, 4)
MEMORY_CLIENTS = 16
PREVIEW_CLIENTS, PREVIEW_ROUNDS, SHOWN = 16, 6, 4
_OPEN_STREAM, _FAIR_STREAM, _MEMORY_STREAM, _PREVIEW_STREAM = (
    100,
    200,
    300,
    400,
)  # a closed loop's is its clients


def send(url: str, pattern: str, **arguments: object) -> Run:
    """Run the load generator."""
    printed = call("benchmarks.load", pattern, json.dumps({"url": url, **arguments}))
    for name in ("answers", "long"):
        printed[name] = [Answer(**answer) for answer in printed[name]]
    return Run(**printed)


def measure_limit(rounds: int = ROUNDS) -> Limit:
    """Both loops and the matrix products in turn, the best of `rounds`."""
    flops, flops_a_row = 0.0, 0.0
    best: dict[str, dict[str, float]] = {"ours": {}, "diffusers": {}}
    for _ in range(rounds):
        machine = call("benchmarks.limit", "machine")
        flops, flops_a_row = max(flops, machine["flops"]), machine["flops_a_row"]
        for name, loop in best.items():
            for batch, speed in call("benchmarks.limit", name).items():
                loop[batch] = max(loop.get(batch, 0.0), speed)
            click.echo(f"  {name}: {max(loop.values()):.0f} rows/s")
    return Limit(flops, flops_a_row, **best)


def measure_load(names: Sequence[str], seconds: float, warmup: float) -> Load:
    """Every server alone: requests one by one, then from many clients, then at given rates.

    Right before ours and right after it, the loop without a server is measured.

    The first server is the yardstick: its capacity sets the rates of the open loop for all servers,
    and its solo times decide what is in time there.
    """
    load, loops = Load(), []
    for name in names:
        loops += [call("benchmarks.limit", "loop")] if name == OURS else []
        with running(SERVERS[name]) as server:
            server.wait(server.server.ready)
            run = send(server.url, "solo", rounds=SOLO_ROUNDS, steps=STEPS)
            load.solo[name], load.closed[name] = solo_times(run), {}
            for clients in CLIENTS:
                load.closed[name][clients] = under_load(
                    server,
                    load.solo[name],
                    "closed",
                    stream=clients,
                    clients=clients,
                    seconds=seconds,
                    warmup=warmup,
                )
                report(name, f"{clients} clients", load.closed[name][clients])
        loops += [call("benchmarks.limit", "loop")] if name == OURS else []
    for clients in CLIENTS if loops else ():
        load.loop[clients] = statistics.mean(loop[str(clients)] for loop in loops)
    yardstick = names[0]
    capacity = load.closed[yardstick][CLIENTS[-1]].images_per_second
    load.shares = {round(share * capacity, 2): share for share in SHARES}
    for name in names:
        load.opened[name] = {}
        for number, rate in enumerate(load.shares, start=_OPEN_STREAM):
            with running(SERVERS[name]) as server:  # a new one: the last may still be at work
                server.wait(server.server.ready)
                figures = under_load(
                    server,
                    load.solo[yardstick],
                    "opened",
                    stream=number,
                    rate=rate,
                    seconds=seconds,
                    warmup=warmup,
                )
            load.opened[name][rate] = figures
            report(name, f"{rate:g} requests/s", figures)
            if figures.answered < 0.5:
                break
    return load


def under_load(server: Running, solo: Solo, pattern: str, **arguments: float) -> Figures:
    """One measurement, with the processor time of the server beside it."""
    before, began = server.cpu_seconds(), time.perf_counter()
    run = send(server.url, pattern, **arguments)
    cores = (server.cpu_seconds() - before) / (time.perf_counter() - began)
    return Figures.of(run, solo, cores, by_arrival=pattern == "opened")


def measure_previews(seconds: float, warmup: float, rounds: int = PREVIEW_ROUNDS) -> Previews:
    """Our server, every client asking for a picture, for events, for events with previews.

    They run in turn, in another order each round, so that disturbances of the machine affect all
    three.
    """
    ways = {"a picture": None, "events": 0, f"events, {SHOWN} previews": SHOWN}
    previews = Previews(PREVIEW_CLIENTS, {name: [] for name in ways})
    with running(SERVERS[OURS]) as server:
        server.wait(server.server.ready)
        for number in range(rounds):
            order = list(ways)[number % 3 :] + list(ways)[: number % 3]
            for name in order:
                run = send(
                    server.url,
                    "closed",
                    stream=_PREVIEW_STREAM + number,
                    clients=PREVIEW_CLIENTS,
                    seconds=seconds,
                    warmup=warmup,
                    previews=ways[name],
                )
                done = [a for a in good(run.answers) if 0 < a.ended <= run.window]
                served = sum(rows(a.steps, a.guidance_scale) for a in done)
                previews.rows_per_second[name].append(served / between_answers(run))
            click.echo("  " + ", ".join(f"{v[-1]:.0f}" for v in previews.rows_per_second.values()))
    return previews


def report(name: str, level: str, figures: Figures) -> None:
    """Print how a measurement went."""
    p95 = "-" if figures.p95 is None else f"{figures.p95:.2f} s"
    click.echo(f"  {name}, {level}: {figures.images_per_second:.1f} images/s, p95 {p95}")


def measure_fairness(seconds: float, warmup: float) -> list[Fairness]:
    """Short requests to our server, alone and beside many long ones."""
    table = []
    with running(SERVERS[OURS]) as server:
        server.wait(server.server.ready)
        solo = solo_times(send(server.url, "solo", rounds=4 * SOLO_ROUNDS, steps=[SHORT_STEPS]))
        for stream, clients in enumerate(SHORT_CLIENTS, start=_FAIR_STREAM):
            run = send(
                server.url,
                "fair",
                stream=2 * stream,
                long=LONG_CLIENTS,
                short=clients,
                seconds=seconds,
                warmup=warmup,
            )
            lost = len(run.answers) + len(run.long) - len(good(run.answers)) - len(good(run.long))
            if lost:
                raise click.ClickException(f"{lost} requests failed beside long ones")
            for scale in GUIDANCE_SCALES:
                times = [a.seconds for a in run.answers if a.guidance_scale == scale]
                name = kind(SHORT_STEPS, scale)
                p50, p95 = percentile(times, 0.5), percentile(times, 0.95)
                table.append(
                    Fairness(clients, name, len(times), solo[name], p50, p95, len(run.long))
                )
            click.echo(f"  {clients} short: {len(run.answers)}, {len(run.long)} long finished")
    return table


def measure_start(names: Sequence[str], starts: int = STARTS) -> dict[str, Start]:
    """Start every server and draw an image, `starts` times each."""
    request = Request(7, SHORT_STEPS, 1.0, seed=0)
    measured = {}
    for name in names:
        times = Start([], [], [])
        for _ in range(starts):
            with running(SERVERS[name]) as server:
                times.live.append(server.wait(server.server.live))
                times.ready.append(server.wait(server.server.ready))
                times.image.append(server.draw(request))
        measured[name] = times
        click.echo(f"  {name}: image after {statistics.median(times.image):.1f} s")
    return measured


def measure_memory(checkpoints: Sequence[int] = CHECKPOINTS) -> dict[int, int]:
    """Requests that our server has answered -> its resident bytes."""
    done, measured = 0, {}
    with running(SERVERS[OURS]) as server:
        server.wait(server.server.ready)
        for stream, count in enumerate(checkpoints, start=_MEMORY_STREAM):
            run = send(
                server.url, "burst", stream=stream, count=count - done, clients=MEMORY_CLIENTS
            )
            if len(good(run.answers)) != count - done:
                raise click.ClickException("requests failed while memory was measured")
            done, measured[count] = count, server.resident_bytes()
            click.echo(f"  {count} requests: {measured[count] / 2**20:.0f} MiB")
    return measured
