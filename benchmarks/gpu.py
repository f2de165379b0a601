"""Everything about the engine on a GPU, in one run of eight minutes.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --only correct --only served --budget 150 --out runs/gpu
    python -m benchmarks.gpu --device cpu --small        whether it runs: CUDA graphs are faked

Each part is a process with a time limit that writes down every number as it comes: a crash or a
limit costs one part. Writes gpu.json and gpu.md. docs/gpu.md says what the tables mean.
"""

import json
import platform
import signal
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from benchmarks.device.running import Ended, Part, run_parts
from benchmarks.device.tables import markdown
from benchmarks.serving import installed, processor

_RESULTS = Path(__file__).parent / "results"
_BUDGET = 470.0  # seconds
_SMALL_BUDGET = 3000.0  # far more than needed: a CPU is slow, and may be busy
_PACKAGES = ("torch", "triton", "diffusers", "numpy", "fastapi")
# Name -> seconds at most, and what it says; in the order of their worth.
PARTS = {
    "machine": (45, "What the machine can do."),
    "correct": (100, "The engine's pixels, alone and in crowds."),
    "exact": (40, "Numbers of rows with equal bits."),
    "served": (100, "The server under load."),
    "speed": (110, "The engine beside its floor."),
    "peer": (90, "diffusers, with the same weights."),
    "profile": (45, "What the device does in a tick."),
    "faults": (90, "Memory, captures, devices and workers that fail."),
    "layers": (40, "Operators whose bits depend on the number of rows."),
    "convolutions": (70, "Our convolutions beside those of cuDNN."),
    "loose": (40, "As `exact`, with CUDA's libraries as PyTorch leaves them."),
    "large": (200, "A UNet of Stable Diffusion's size."),
    "large_peer": (120, "diffusers' UNet of that size."),
    "prompts": (150, "Stable Diffusion 1.5 and SDXL, with prompts."),
    "prompts_peer": (240, "diffusers' UNets of both."),
}


@click.command()
@click.option("--device", default="cuda", show_default=True, help="cuda, cuda:1, or cpu.")
@click.option("--only", type=click.Choice(list(PARTS)), multiple=True, help="Repeat for several.")
@click.option(
    "--budget", type=float, help="Seconds for everything. [default: 470, or 3000 with --small]"
)
@click.option("--small", is_flag=True, help="Small sizes, to see whether everything runs.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(device: str, only: tuple[str, ...], budget: float | None, small: bool, out: Path) -> None:
    """Run all parts, or those asked for, and write the results."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops the part too
    facts = about(device, small)
    out.mkdir(parents=True, exist_ok=True)

    def keep(results: dict[str, Ended]) -> None:
        found = {"about": facts, "parts": {name: asdict(part) for name, part in results.items()}}
        (out / "gpu.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        (out / "gpu.md").write_text(markdown(facts, results), encoding="utf-8")

    parts = {name: part(name, device, small) for name in only or PARTS}
    run_parts(parts, budget or (_SMALL_BUDGET if small else _BUDGET), keep)
    click.echo(out / "gpu.md")


def part(name: str, device: str, small: bool) -> Part:
    """A part on a device, as a command."""
    seconds, says = PARTS[name]
    arguments = ("-m", "benchmarks.device.part", name, device, *(["--small"] if small else []))
    return Part(says, arguments, seconds)


def about(device: str, small: bool) -> dict[str, str]:
    """The machine, and the versions that were measured."""
    name = card() if device.startswith("cuda") else "none: CUDA graphs are faked on the CPU"
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "GPU, driver": name,
        "processor": processor(),
        "Python": platform.python_version(),
        **{package: installed(package) for package in _PACKAGES},
        "sizes": "small: no number means anything" if small else "full",
    }


def card() -> str:
    """The GPU and its driver, by the driver."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise click.ClickException(
            f"no NVIDIA driver answers ({error}); try --device cpu"
        ) from error


if __name__ == "__main__":
    main()
