"""The load generator, a process of its own.

    python -m benchmarks.load closed '{"url": "http://127.0.0.1:8000", "clients": 16, ...}'

Takes the name of a pattern below and its arguments, and prints a `Run` as JSON. `stream` numbers
the sequence of requests: two servers that get the same stream get the same requests.
"""

import asyncio
import contextlib
import itertools
import json
import random
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import asdict
from typing import Any

import click
import uvloop

from benchmarks.sending import SIDE, Asking, Run, connected, connected_for_jobs
from benchmarks.stable_diffusion.workload import workload as prompted
from benchmarks.workload import GUIDANCE_SCALES, Request, workload

GRACE_SECONDS = 10.0  # how long after the window an open loop waits for the last answers
LONG_STEPS, SHORT_STEPS = 250, 10
_FEWEST = 8  # answers of a closed loop; see `closed`


async def solo(url: str, rounds: int, steps: list[int]) -> Run:
    """Every pair of steps and guidance scale, `rounds` times after one to warm up, one by one."""
    pairs = list(itertools.product(steps, GUIDANCE_SCALES))
    async with connected(url) as client:
        for seed, pair in enumerate(pairs):
            await client.send(Request(7, *pair, seed))
        client.answers.clear()
        client.start_window()
        for seed, pair in enumerate(pairs * rounds, start=len(pairs)):
            await client.send(Request(7, *pair, seed))
        return Run(client.answers, client.now())


async def closed(
    url: str,
    stream: int,
    clients: int,
    seconds: float,
    warmup: float,
    previews: int | None = None,
    side: int = SIDE,
    prompts: bool = False,
) -> Run:
    """`clients` at once; each sends its next request when it has the answer to its last.

    With a number of `previews` they ask for events. Pictures have sides of `side` pixels; they are
    asked for by class, or by `prompts`.

    A server too slow for two answers per client gets up to three windows: of requests that take
    longer than the window, only the quick ones would count.
    """
    requests: Iterator[Asking] = prompted(stream) if prompts else workload(stream)
    stop, enough = asyncio.Event(), max(_FEWEST, 2 * clients)
    async with connected(url, previews, side) as client, asyncio.TaskGroup() as group:
        client.start_window(warmup)
        for _ in range(clients):
            group.create_task(client.keep_sending(requests, stop))
        await asyncio.sleep(warmup + seconds)
        while sum(a.ended > 0 for a in client.answers) < enough and client.now() < 3 * seconds:
            await asyncio.sleep(0.05)
        window = client.now()
        stop.set()
    return Run(client.answers, window)


async def as_jobs(url: str, stream: int, clients: int, seconds: float, warmup: float) -> Run:
    """As `closed`, but each request is a job, and all are followed over one stream of events."""
    requests, stop = workload(stream), asyncio.Event()
    async with connected_for_jobs(url) as client, asyncio.TaskGroup() as group:
        client.start_window(warmup)
        for _ in range(clients):
            group.create_task(client.keep_sending(requests, stop))
        await asyncio.sleep(warmup + seconds)
        window = client.now()
        stop.set()
    return Run(client.answers, window)


async def opened(url: str, stream: int, rate: float, seconds: float, warmup: float) -> Run:
    """`rate` requests per second, as a Poisson process. Times count from when a request was due."""
    arrivals, requests = random.Random(stream), workload(stream)
    in_window, due = 0, arrivals.expovariate(rate) - warmup
    async with connected(url) as client:
        client.start_window(warmup)
        with contextlib.suppress(TimeoutError):  # late requests stay without an answer
            async with (
                asyncio.timeout(warmup + seconds + GRACE_SECONDS),
                asyncio.TaskGroup() as sent,
            ):
                while due < seconds:
                    await asyncio.sleep(due - client.now())
                    sent.create_task(client.send(next(requests), due))
                    in_window += due >= 0
                    due += arrivals.expovariate(rate)
    answered = sum(a.began >= 0 for a in client.answers)
    return Run(client.answers, seconds, unanswered=in_window - answered)


async def fair(url: str, stream: int, long: int, short: int, seconds: float, warmup: float) -> Run:
    """`short` clients with few steps per request, while `long` others draw with many steps."""
    leave, enough = asyncio.Event(), asyncio.Event()
    async with connected(url) as crowd, connected(url) as client:
        many = workload(stream, steps=[LONG_STEPS])
        few = workload(stream + 1, steps=[SHORT_STEPS])
        async with asyncio.TaskGroup() as long_group:
            for _ in range(long):
                long_group.create_task(crowd.keep_sending(many, leave))
            await asyncio.sleep(warmup)
            client.start_window()
            async with asyncio.TaskGroup() as short_group:
                for _ in range(short):
                    short_group.create_task(client.keep_sending(few, enough))
                await asyncio.sleep(seconds)
                enough.set()
            window = client.now()
            leave.set()
        return Run(client.answers, window, long=crowd.answers)


async def burst(url: str, stream: int, count: int, clients: int) -> Run:
    """`count` requests of few steps, `clients` at once."""
    requests = itertools.islice(workload(stream, steps=[SHORT_STEPS]), count)
    never = asyncio.Event()
    async with connected(url) as client, asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client.keep_sending(requests, never))
    return Run(client.answers, client.now())


PATTERNS: dict[str, Callable[..., Coroutine[Any, Any, Run]]] = {
    "solo": solo,
    "closed": closed,
    "as_jobs": as_jobs,
    "opened": opened,
    "fair": fair,
    "burst": burst,
}


@click.command()
@click.argument("pattern", type=click.Choice(list(PATTERNS)))
@click.argument("arguments")
def main(pattern: str, arguments: str) -> None:
    """Send requests in a PATTERN, whose ARGUMENTS are JSON."""
    before = time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        run = runner.run(PATTERNS[pattern](**json.loads(arguments)))
    run.cpu = time.process_time() - before
    click.echo(json.dumps(asdict(run)))


if __name__ == "__main__":
    main()
