"""Darkroom beside the alternatives that one would run instead, on this machine.

    python -m benchmarks.serving
    python -m benchmarks.serving --only load --seconds 5 --out runs/bench

Every server answers the same requests with the same weights, one server after the other. Writes
serving.md, serving.json and, of the load, serving.png. All of it takes about twenty minutes.
"""

import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from benchmarks import parts
from benchmarks.report import markdown
from benchmarks.results import Results
from benchmarks.servers import SERVERS, call

PARTS = ("limit", "load", "fairness", "previews", "start", "memory")
_PACKAGES = ("torch", "diffusers", "litserve", "openvino")
_RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option("--only", type=click.Choice(PARTS), multiple=True, help="Repeat for several parts.")
@click.option("--server", type=click.Choice(list(SERVERS)), multiple=True, help="[default: all]")
@click.option(
    "--seconds", default=20.0, show_default=True, help="Length of each measurement under load."
)
@click.option(
    "--warmup", default=3.0, show_default=True, help="Seconds of warm-up before each one."
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(
    only: tuple[str, ...], server: tuple[str, ...], seconds: float, warmup: float, out: Path
) -> None:
    """Measure all parts, or those asked for, and write the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops servers too
    names = server or tuple(SERVERS)
    measure: dict[str, Callable[[], object]] = {
        "limit": parts.measure_limit,
        "load": lambda: parts.measure_load(names, seconds, warmup),
        "fairness": lambda: parts.measure_fairness(seconds, warmup),
        "previews": lambda: parts.measure_previews(seconds, warmup),
        "start": lambda: parts.measure_start(names),
        "memory": parts.measure_memory,
    }
    results = Results(about(seconds))
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    for part in only or PARTS:
        click.echo(f"{part}, after {time.monotonic() - began:.0f} s")
        setattr(results, part, measure[part]())
        write(results, out)
    click.echo(f"{out / 'serving.md'}, after {time.monotonic() - began:.0f} s")


def about(seconds: float) -> dict[str, str]:
    """The machine and the versions that were measured."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "device": call("benchmarks.limit", "device"),
        "Python": platform.python_version(),
        **{name: installed(name) for name in _PACKAGES},
        "each measurement under load": f"{seconds:g} s",
    }


def processor() -> str:
    """The name of the CPU, or at least its kind."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def installed(name: str) -> str:
    """The version of a package."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write(results: Results, out: Path) -> None:
    """Write the results so far."""
    (out / "serving.json").write_text(json.dumps(asdict(results)) + "\n", encoding="utf-8")
    (out / "serving.md").write_text(markdown(results), encoding="utf-8")
    if results.load:
        from benchmarks.plot import plot  # matplotlib, which others that use `about` do without

        plot(results.load, out / "serving.png")


if __name__ == "__main__":
    main()
