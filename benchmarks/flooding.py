"""The flood of `benchmarks.flood`, a process of its own, which ends by SIGTERM.

    python -m benchmarks.flooding "ten steps" 8000 600 1 --address 127.0.0.2

It shares the cores with what it floods, so it is kept lean: bytes on raw streams, made once but for
the seed, and an answer is read no further than to its end.
"""

import asyncio
import itertools
import json
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass

import click
import uvloop

from benchmarks.flood import FLOODS, Flood

_SEEDS_A_FLOOD = 10**7
_END = b"\r\n\r\n"


@dataclass(frozen=True)
class Target:
    """Where a flood goes, and as whom."""

    port: int
    address: str
    key: str


async def flood(what: Flood, to: Target, connections: int, seeds: "itertools.count[int]") -> None:
    """Send until told to stop; print what was answered."""
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    tasks = [asyncio.create_task(keep(what, to, seeds, statuses)) for _ in range(connections)]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    print(json.dumps({"seconds": time.perf_counter() - began, "statuses": statuses}))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def keep(
    what: Flood, to: Target, seeds: "itertools.count[int]", statuses: Counter[str]
) -> None:
    """One connection, opened anew when it is closed."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", to.port, local_addr=(to.address, 0)
            )
        except OSError:
            statuses["no connection"] += 1
            await asyncio.sleep(0.1)
            continue
        try:
            while True:
                writer.write(request(what, next(seeds), to.key))
                statuses[await answer(reader)] += 1
        except (OSError, EOFError):
            statuses["closed"] += 1
        finally:
            writer.close()


def request(what: Flood, seed: int, key: str) -> bytes:
    """One request, as bytes."""
    sent = f"X-API-Key: {key}\r\n" if key else ""
    if what.body is None:
        return f"GET {what.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{sent}\r\n".encode()
    body = json.dumps({"class": "1", **what.body, "seed": seed})
    return (
        f"POST {what.path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{sent}Accept: {what.accept}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


async def answer(reader: asyncio.StreamReader) -> str:
    """Read one answer to its end; its status."""
    head = await reader.readuntil(_END)
    lower = head.lower()
    _, found, rest = lower.partition(b"content-length:")
    if found:
        await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    elif b"transfer-encoding: chunked" in lower:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        await reader.readexactly(2)
    return head[9:12].decode()


@click.command()
@click.argument("name", type=click.Choice(list(FLOODS)))
@click.argument("port", type=int)
@click.argument("connections", type=int)
@click.argument("number", type=int)
@click.option("--address", default="127.0.0.1", help="Where it comes from.")
@click.option("--key", default="", help="What it sends as X-API-Key.")
def main(name: str, port: int, connections: int, number: int, address: str, key: str) -> None:
    """Flood the server at PORT with NAME; NUMBER tells its seeds from other floods'."""
    seeds = itertools.count(number * _SEEDS_A_FLOOD)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(flood(FLOODS[name], Target(port, address, key), connections, seeds))


if __name__ == "__main__":
    sys.exit(main())
