"""`darkroom sample` and `darkroom verify`: drawing without a server."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.console import FiniteRange, one_line
from app.engine.errors import EngineError
from app.engine.job import MAX_GUIDANCE_SCALE, MAX_SEED, SamplingParams
from app.engine.model_info import ModelInfo
from app.images import PNG, Format, describe, encode, file_stem, format_of
from models.library import Located, locate

if TYPE_CHECKING:
    from app.engine.runner import Runner

_EPILOG_SAMPLE = """\b
Examples:
  darkroom sample --class 7
  darkroom sample --class 7 --seed 1 --out seven.webp
  darkroom sample --class 3 --steps 10 --n 4 --seed 1 --out three.png
writes three-1.png ... three-4.png, named by seed.
"""
_EPILOG_VERIFY = """\b
Examples:
  darkroom verify seven.png
  darkroom verify shoe.webp --model runs/shoes/model
Exit status: 0 same, 1 differs, 2 nothing to compare it with.
"""


@dataclass(frozen=True)
class Target:
    """Where images go, and as what: checked before anything is drawn."""

    folder: Path
    stem: str | None  # of the file; by what is drawn where there is none
    suffix: str
    kind: Format

    @classmethod
    def of(cls, out: Path | None) -> "Target":
        """What `--out` says; raises `ValueError`, or `OSError` where nothing can be written."""
        if out is None or out.is_dir():
            target = cls(out or Path(), None, ".png", PNG)
        else:
            kind = format_of(out.suffix[1:])
            if kind is None:
                allowed = ".png, .webp, .jpg, .jpeg, or an existing folder"
                raise ValueError(f"{out}: ends with {out.suffix!r}; allowed: {allowed}")
            target = cls(out.parent, out.stem, out.suffix, kind)
        if not target.folder.is_dir():
            raise FileNotFoundError(f"{target.folder}: no such folder")
        there = [target.folder, *([out] if out and out.exists() else [])]
        if unwritable := [path for path in there if not os.access(path, os.W_OK)]:
            raise PermissionError(f"{unwritable[0]}: cannot be written")
        return target

    def path(self, params: SamplingParams, image: int, info: ModelInfo) -> Path:
        """The file of image 0..n-1."""
        if self.stem is None:
            stem = file_stem(params, image, info)
        else:
            stem = self.stem if params.n == 1 else f"{self.stem}-{params.seed_of(image)}"
        return self.folder / (stem + self.suffix)


@click.command(epilog=_EPILOG_SAMPLE)
@click.option(
    "--model", default="digits", show_default=True, help="Name of a shipped model, or a path."
)
@click.option("--class", "class_", help="Name or index of a class; any class if absent.")
@click.option("--steps", type=click.IntRange(1), help="DDIM steps. [default: 50]")
@click.option(
    "--guidance-scale",
    type=FiniteRange(0, MAX_GUIDANCE_SCALE),
    help="Classifier-free guidance scale; 1 means none. [default: the model's]",
)
@click.option(
    "--guidance-interval",
    type=(FiniteRange(0, 1), FiniteRange(0, 1)),
    default=(0.0, 1.0),
    show_default=True,
    help="Which part of the steps is guided, as fractions from 0 to 1.",
)
@click.option(
    "--eta",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="0: deterministic (DDIM); 1: as much noise as DDPM.",
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="Image k uses seed + k. [default: random]"
)
@click.option(
    "--n", type=click.IntRange(1, 1024), default=1, show_default=True, help="Number of images."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .png, .webp or .jpg file, or a folder. [default: named by model, class and seed]",
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
    out: Path | None,
    device: str,
) -> None:
    """Draw images without a server: the same request, the same pixels."""
    from app.engine.offline import draw
    from app.schemas import GenerateRequest

    asked = {
        "class": class_,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "guidance_interval": list(guidance_interval),
        "eta": eta,
        "seed": seed,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    with one_line():
        target = Target.of(out)
        request = GenerateRequest.parse(given)  # what HTTP does, before a model is opened
        located = locate(model)
        watched = sys.stderr.isatty()
        if watched:
            click.echo(f"loading {located.name}", err=True)
        runner = open_runner(located, device)
        info = runner.info
        params = replace(request.to_params({info.name: info}), n=n)
        with click.progressbar(
            length=params.steps * n,
            label="drawing",
            file=sys.stderr,
            hidden=not watched,
        ) as bar:
            images = draw(runner, params, tell=bar.update)
        for k, pixels in enumerate(images):
            path = target.path(params, k, info)
            path.write_bytes(encode(pixels, target.kind, describe(params, k, info)))
            click.echo(path)


@click.command(epilog=_EPILOG_VERIFY)
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", help="Shipped name or path. [default: the model that the picture names]")
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
