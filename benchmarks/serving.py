"""Darkroom beside what one would write in its place: diffusers behind FastAPI and a lock.

    python -m benchmarks.serving

Both servers run the same weights and answer the same requests, one server after the other, on the
same machine. Every request differs in class, steps and seed. Prints a Markdown table.
"""

import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import click
import httpx

SERVERS = {
    "diffusers, FastAPI and a lock": ["benchmarks.locked:create_app"],
    "Darkroom": ["app.main:create_app"],
}


@click.command()
@click.option("--requests", default=96, show_default=True)
@click.option("--clients", default="1,8,32", show_default=True, help="At once, comma-separated.")
@click.option("--port", default=0, help="[default: a free one]")
def main(requests: int, clients: str, port: int) -> None:
    """Measure both servers and print the ratio."""
    levels = [int(level) for level in clients.split(",")]
    figures: dict[str, list[tuple[float, float]]] = {}
    for name, target in SERVERS.items():
        with serving(target, port or free_port()) as url:
            load(url, 8, 8)  # warm
            figures[name] = [load(url, requests, level) for level in levels]
    cores = os.cpu_count()
    click.echo(f"{platform.machine()}, {cores} cores, {requests} requests of 10 to 50 steps\n")
    click.echo("| server | clients | images/s | median s | images/s, of the lock's |")
    click.echo("|---|---|---|---|---|")
    first = next(iter(figures.values()))
    for name, rows in figures.items():
        for level, (rate, median), (base, _) in zip(levels, rows, first, strict=True):
            click.echo(f"| {name} | {level} | {rate:.1f} | {median:.2f} | {rate / base:.2f} |")


def load(url: str, requests: int, clients: int) -> tuple[float, float]:
    """Images a second and the median latency, with `clients` always waiting for an answer."""
    draw = random.Random(0)
    bodies = [
        {"class": str(draw.randrange(10)), "steps": draw.randint(10, 50), "seed": seed}
        for seed in range(requests)
    ]

    def one(body: dict[str, object]) -> float:
        began = time.perf_counter()
        client.post(f"{url}/generate", json=body).raise_for_status()
        return time.perf_counter() - began

    with httpx.Client(timeout=600) as client, ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        latencies = list(pool.map(one, bodies))
        elapsed = time.perf_counter() - began
    return requests / elapsed, statistics.median(latencies)


@contextmanager
def serving(target: list[str], port: int) -> Iterator[str]:
    """A server in a process of its own, once it answers."""
    command = [sys.executable, "-m", "uvicorn", "--factory", *target, "--port", str(port)]
    process = subprocess.Popen([*command, "--log-level", "warning"])
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            if process.poll() is not None:
                raise click.ClickException(f"{target[0]} did not start")
            try:
                httpx.get(f"{url}/openapi.json")
                break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
