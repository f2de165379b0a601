"""`darkroom sample` and `darkroom verify`: drawing without a server."""

import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.console import FiniteRange, one_line
from app.engine.job import DEFAULT_STEPS, MAX_GUIDANCE_SCALE, MAX_SEED, EngineError
from models.library import Located, locate

if TYPE_CHECKING:
    from app.engine.runner import Runner

_EPILOG_SAMPLE = """\b
Examples:
  darkroom sample --class 7 --seed 1 --out seven.png
  darkroom sample --class 3 --steps 10 --n 4 --seed 1 --out three.png
writes three-1.png ... three-4.png, named by seed.
"""
_EPILOG_VERIFY = """\b
Examples:
  darkroom verify seven.png
  darkroom verify shoe.webp --model runs/shoes/model
Exit status: 0 same, 1 differs, 2 nothing to compare it with.
"""


@click.command(epilog=_EPILOG_SAMPLE)
@click.option("--model", default="digits", show_default=True, help="Shipped name or path.")
@click.option("--class", "class_", help="Name or index of a class; none if absent.")
@click.option("--steps", type=click.IntRange(1), help="DDIM steps. [default: 50]")
@click.option(
    "--guidance-scale",
    type=FiniteRange(0, MAX_GUIDANCE_SCALE),
    help="1 is none. [default: the model's]",
)
@click.option(
    "--guidance-interval",
    type=(FiniteRange(0, 1), FiniteRange(0, 1)),
    default=(0.0, 1.0),
    show_default=True,
    help="The part of the steps that is guided.",
)
@click.option(
    "--eta",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="0 is DDIM, 1 ancestral.",
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="Image k uses seed + k. [default: random]"
)
@click.option("--n", type=click.IntRange(1, 1024), default=1, show_default=True, help="Images.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="PNG file."
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def sample(
    model: str,
    class_: str | None,
    steps: int | None,
    guidance_scale: float | None,
    guidance_interval: tuple[float, float],
    eta: float,
    seed: int | None,
    n: int,
    out: Path,
    device: str,
) -> None:
    """Draw images without a server: the same request, the same pixels."""
    from app.engine.job import Params
    from app.engine.offline import draw
    from app.images import PNG, describe, encode
    from models.conditioning import Classes

    with one_line():
        runner = open_runner(locate(model), device)
        info = runner.info
        seed = secrets.randbelow(2**32) if seed is None else seed
        scale = info.guidance_scale if guidance_scale is None else guidance_scale
        steps = min(DEFAULT_STEPS, info.max_steps) if steps is None else steps
        index = Classes(info.classes, info.null_class).index(class_)
        wanted = Params(info.name, index, steps, scale, guidance_interval, eta, seed, n)
        params = wanted.canonical(info)
        for k, pixels in enumerate(draw(runner, params)):
            path = out if n == 1 else out.with_stem(f"{out.stem}-{params.seed_of(k)}")
            path.write_bytes(encode(pixels, PNG, describe(params, k, info)))
            click.echo(path)


@click.command(epilog=_EPILOG_VERIFY)
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Shipped name or path. [default: the one the picture names]")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def verify(picture: Path, model: str | None, device: str) -> None:
    """Draw a picture again from its own metadata, and say whether it is the same."""
    from app.engine.offline import draw
    from app.images import open_image
    from app.pictures import read_file
    from app.verification import claim_of, compare, folder_of, params_of

    try:
        opened = open_image(read_file(picture))
        claim = claim_of(opened)
        runner = open_runner(folder_of(claim, model), device)
        verdict = compare(opened, draw(runner, params_of(claim, runner.info))[0])
    except (ValueError, OSError, EngineError) as error:
        click.echo(f"{picture}: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    click.echo(f"{picture}: {verdict}")
    sys.exit(0 if verdict.same else 1)


def open_runner(model: Located, device: str) -> "Runner":
    """A model, ready to draw as the server does."""
    from app.engine.runner import Runner
    from app.engine.wire import Load

    load = Load({}, device, "float32", "auto", compile=False, slots=64, rows=None)
    return Runner.open(model.name, model.folder, load)
