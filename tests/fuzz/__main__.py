"""python -m tests.fuzz --seconds 600 --seed 1: a server of its own, with the shipped model."""

import asyncio
import random
import tempfile
import time
from pathlib import Path

import click

from models.library import shipped
from tests.e2e import live
from tests.fuzz.folders import refusal
from tests.fuzz.run import fuzz


@click.command()
@click.option("--seconds", default=600.0, help="For requests; folders take a fifth of it more.")
@click.option("--seed", default=0)
def main(seconds: float, seed: int) -> None:
    """Fuzz requests, headers, pictures and folders, and print what came of it."""
    with live.serving() as (url, process):
        pids = [process.pid, live.engine(url)["worker_pid"]]
        found = asyncio.run(fuzz(url, pids, seconds, seed))
        assert live.engine(url)["worker_pid"] == pids[1], "the worker died"
    print(f"seed {seed}: {found.connections} connections in {seconds:g} s")
    print("answers by status:", dict(sorted(found.statuses.items())))
    print(f"slowest /livez: {found.slowest:.3f} s")
    for name, pid in zip(("server", "worker"), pids, strict=True):
        before, most = found.before[pid] >> 20, found.most[pid] >> 20
        print(f"{name}: {before} MiB before, {most} MiB at most")
    for sent in found.faults[:5]:
        print("a fault, after:", sent[:2000])
    print("folders:", open_folders(seconds / 5, seed))


def open_folders(seconds: float, seed: int) -> dict[str, int]:
    """Open damaged folders: how many opened, how many were refused. Anything else raises."""
    counts, chance = {"opened": 0, "refused": 0}, random.Random(seed)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as parent:
        while time.monotonic() < end:
            said = refusal(chance, shipped()["digits"], Path(parent) / "model")
            counts["refused" if said else "opened"] += 1
            assert len(said) < 1000, said
    return counts


if __name__ == "__main__":
    main()
