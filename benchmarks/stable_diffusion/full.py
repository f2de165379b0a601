"""One client, true shapes: seconds per image, and the most memory that was needed."""

import io
import time
from dataclasses import dataclass, field
from pathlib import Path

import click
import httpx
from PIL import Image

from benchmarks.servers import Running
from benchmarks.stable_diffusion.servers import DTYPES, NAMES, peak_bytes, started
from benchmarks.stable_diffusion.workload import Asked

STEPS = 4
_GUIDED = Asked("a photo of a cat", "blurry", STEPS, 7.5, "ddim", "default", seed=0)
_PATIENCE = 1800.0  # seconds for an image


@dataclass
class Drawn:
    """One server in one precision."""

    seconds: list[float] = field(default_factory=list)  # per image
    peak: int = 0  # bytes
    start: float = 0.0  # seconds until it is ready


Full = dict[str, dict[str, Drawn]]  # server -> dtype


def measure(folder: Path, side: int, images: int) -> Full:
    """Every server alone, one after the other; its first image is not counted."""
    found: Full = {name: {} for name in NAMES}
    for dtype in DTYPES:
        for name in NAMES:
            with started(name, folder, dtype) as one:
                made = Drawn(start=time.perf_counter() - one.began)
                made.seconds = [draw(one, side, seed) for seed in range(1 + images)][1:]
                made.peak = peak_bytes(name, one)
            found[name][dtype] = made
            click.echo(f"  {name}, {dtype}: {made}")
    return found


def draw(one: Running, side: int, seed: int) -> float:
    """Seconds until a picture is there; it is looked at."""
    began = time.perf_counter()
    # A prompt of its own each time: nobody has encoded it before.
    body = _GUIDED.body(seed=seed, prompt=f"{_GUIDED.prompt} number {seed}")
    headers = {"content-type": "application/json", "accept": "image/png"}
    answer = httpx.post(f"{one.url}/generate", content=body, headers=headers, timeout=_PATIENCE)
    taken = time.perf_counter() - began
    if answer.is_error:
        raise click.ClickException(f"{answer.status_code}: {answer.text[:500]}")
    with Image.open(io.BytesIO(answer.content), formats=["PNG"]) as picture:
        picture.load()
        if picture.size != (side, side):
            raise click.ClickException(f"a picture is {picture.size}; expected sides of {side}")
    return taken
