"""`darkroom sample`: drawing without a server."""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click

from app.cli.console import FiniteRange, one_line
from app.cli.opening import open_runner, prediction_option, runner_for
from app.engine.job import MAX_GUIDANCE_SCALE, MAX_SEED, SamplingParams
from app.engine.model_info import ModelInfo
from app.files.formats import PNG, Format, encode, format_of
from app.files.parameters import describe, file_stem
from models.conditioning import Cut
from models.library import locate
from models.sampling import SAMPLERS, SPACINGS, Prediction

_EPILOG_SAMPLE = """\b
Examples:
  darkroom sample --class 7
  darkroom sample --class 7 --seed 1 --out seven.webp
  darkroom sample --class 3 --steps 10 --n 4 --seed 1 --out three.png
writes three-1.png ... three-4.png, named by seed.
  darkroom sample --model sd15 --prompt "a photo of a cat" --seed 1
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
    "--model", default="digits", show_default=True, help="Shipped name, path, or name on the hub."
)
@prediction_option
@click.option("--class", "class_", help="Name or index of a class; any class if absent.")
@click.option("--prompt", help="What the image shows, for models that take prompts.")
@click.option("--negative-prompt", help="What guidance leads away from.")
@click.option(
    "--clip-skip",
    type=click.IntRange(0),
    help="How many of the text encoder's last layers are left out. [default: 0]",
)
@click.option("--steps", type=click.IntRange(1), help="Steps of the sampler. [default: 50]")
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), help="[default: the model's]")
@click.option(
    "--spacing",
    type=click.Choice(SPACINGS),
    help="How noise levels are spaced. [default: the model's]",
)
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
    help="Which part of the evaluations is guided, as fractions from 0 to 1.",
)
@click.option(
    "--eta",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="Noise of ddim: 0 for none, 1 for as much as DDPM.",
)
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), help="Image k uses seed + k. [default: random]"
)
@click.option(
    "--n", type=click.IntRange(1, 1024), default=1, show_default=True, help="Number of images."
)
@click.option("--width", type=click.IntRange(1), help="Pixels. [default: the model's]")
@click.option("--height", type=click.IntRange(1), help="Pixels. [default: the model's]")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="A .png, .webp or .jpg file, or a folder. [default: named by model, class and seed]",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def sample(
    model: str,
    prediction: Prediction | None,
    class_: str | None,
    prompt: str | None,
    negative_prompt: str | None,
    clip_skip: int | None,
    steps: int | None,
    sampler: str | None,
    spacing: str | None,
    guidance_scale: float | None,
    guidance_interval: tuple[float, float],
    eta: float,
    seed: int | None,
    n: int,
    width: int | None,
    height: int | None,
    out: Path | None,
    device: str,
) -> None:
    """Draw images without a server: the same request, the same pixels."""
    from app.engine.offline import draw
    from app.schemas.requests import GenerateRequest

    asked = {
        "class": class_,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "clip_skip": clip_skip,
        "steps": steps,
        "sampler": sampler,
        "spacing": spacing,
        "guidance_scale": guidance_scale,
        "guidance_interval": list(guidance_interval),
        "eta": eta,
        "seed": seed,
        "width": width,
        "height": height,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    with one_line():
        target = Target.of(out)
        request = GenerateRequest.parse(given)  # what HTTP does, before a model is opened
        located = locate(model)
        watched = sys.stderr.isatty()
        if watched:
            click.echo(f"loading {located.name}", err=True)
        runner = open_runner(located, device, prediction)
        info = runner.info
        params = replace(request.to_params({info.name: info}), n=n)
        cut: list[Cut] = []
        with click.progressbar(
            length=params.evaluations * n,
            label="drawing",
            file=sys.stderr,
            hidden=not watched,
        ) as bar:
            sized = runner_for(params, runner)
            images = draw(sized, params, tell=bar.update, tell_cut=cut.append)
        for told in info.prompts.cautions(*cut) if info.prompts else ():
            click.echo(told, err=True)
        for k, pixels in enumerate(images):
            path = target.path(params, k, info)
            path.write_bytes(encode(pixels, target.kind, describe(params, k, info)))
            click.echo(path)
