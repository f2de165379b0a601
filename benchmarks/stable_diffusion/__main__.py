"""Darkroom with Stable Diffusion beside diffusers, on this machine, with random weights.

    python -m benchmarks.stable_diffusion
    python -m benchmarks.stable_diffusion --quick --out runs/trial       whether it runs
    python -m benchmarks.stable_diffusion --only full

Nothing else may run beside it. The folders, 5 GB, are made once under --work.
"""

import os
import platform
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.servers import call
from benchmarks.serving import installed, processor
from benchmarks.stable_diffusion import full, scaled
from benchmarks.stable_diffusion.report import markdown
from benchmarks.stable_diffusion.shapes import SHAPES

_PARTS = ("scaled", "full")
_PACKAGES = ("torch", "openvino", "diffusers", "transformers")
_RESULTS = Path(__file__).parents[1] / "results"
_WORK = Path.home() / ".cache" / "darkroom" / "benchmarks"


@click.command()
@click.option("--only", type=click.Choice(_PARTS), multiple=True, help="Repeat for both.")
@click.option("--seconds", default=90.0, show_default=True, help="Length of a measured window.")
@click.option("--warmup", default=15.0, show_default=True, help="Seconds before each window.")
@click.option("--rounds", default=2, show_default=True, help="Of `scaled`.")
@click.option("--images", default=3, show_default=True, help="Timed of each server, of `full`.")
@click.option("--quick", is_flag=True, help="A trial: short windows, and the scaled shape in full.")
@click.option(
    "--work", type=click.Path(file_okay=False, path_type=Path), default=_WORK, show_default=True
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(
    only: tuple[str, ...],
    seconds: float,
    warmup: float,
    rounds: int,
    images: int,
    quick: bool,
    work: Path,
    out: Path,
) -> None:
    """Measure both parts, or the one asked for, and write stable_diffusion.md."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops servers too
    if quick:
        seconds, warmup, rounds, images = 10.0, 3.0, 1, 1
    facts, began = about(seconds, rounds, quick), time.monotonic()
    work.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    many: scaled.Scaled | None = None
    one: full.Full | None = None
    for part in only or _PARTS:
        click.echo(f"{part}, after {time.monotonic() - began:.0f} s")
        shape = "scaled" if quick else part
        folder = Path(call("benchmarks.stable_diffusion.folders", shape, str(work)))
        side = SHAPES[shape].pixels
        if part == "scaled":
            many = scaled.measure(folder, side, seconds, warmup, rounds)
        else:
            one = full.measure(folder, side, images)
        (out / "stable_diffusion.md").write_text(markdown(facts, many, one), encoding="utf-8")
    click.echo(f"{out / 'stable_diffusion.md'}, after {time.monotonic() - began:.0f} s")


def about(seconds: float, rounds: int, quick: bool) -> dict[str, str]:
    """The machine and the versions that were measured."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "processor": f"{processor()}, {os.cpu_count()} cores",
        "Python": platform.python_version(),
        **{name: installed(name) for name in _PACKAGES},
        "each measurement under load": f"{seconds:g} s, {rounds} rounds",
        **({"a trial": "short, and the full shape is the scaled one"} if quick else {}),
    }


if __name__ == "__main__":
    main()
