"""The command line: darkroom serve | sample | train | evaluate | data | models."""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from pydantic import ValidationError

from models.library import find, shipped

_EPILOG_SERVE = """\b
Examples:
  darkroom serve
  darkroom serve --models digits,runs/shoes/model --port 9000
"""
_EPILOG_SAMPLE = """\b
Examples:
  darkroom sample --class 7 --seed 1 --out seven.png
  darkroom sample --class 3 --steps 10 --n 4 --seed 1 --out three.png
writes three-1.png ... three-4.png, named by seed.
"""
_EPILOG_TRAIN = """\b
Examples:
  darkroom train vae digits --out runs/vae
  darkroom train diffusion digits --vae runs/vae/vae --out runs/digits
  darkroom train vae my.toml --set vae.latent_channels=8 --set train.vae.images=60000 --out runs/v8
  torchrun --nproc-per-node 4 -m app.cli train diffusion digits --vae runs/vae/vae --out runs/digits
"""
_EPILOG_EVALUATE = """\b
Examples:
  darkroom evaluate --model digits
  darkroom evaluate --model runs/digits/model --steps 10,50 --guidance-scale 1,1.5 --samples 5000
"""


class Fault(click.ClickException):
    """Something the user can mend, told in one line."""

    def format_message(self) -> str:
        return " ".join(self.message.split())


@click.group(epilog="\b\nExample:\n  darkroom sample --class 7 --seed 1 --out seven.png")
@click.version_option(package_name="darkroom")
def cli() -> None:
    """Darkroom: train latent diffusion models, and serve them."""


@cli.command(epilog=_EPILOG_SERVE)
@click.option("--models", help="Shipped names or paths, by commas. [default: digits]")
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on. [default: 8000]")
@click.option("--device", help="cpu, cuda, cuda:1, or auto. [default: auto]")
@click.option("--slots", type=int, help="Images in flight at once, a model. [default: 64]")
def serve(**options: str | int | None) -> None:
    """Serve models over HTTP; DARKROOM_* variables set what options do not."""
    import uvicorn

    from app.engine.job import LoadFailed
    from app.main import create_app, create_engine
    from app.settings import Settings

    try:
        settings = Settings(**{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise Fault(f"settings: {'; '.join(wrong)}") from error
    engine = create_engine(settings)
    try:
        engine.load()
    except LoadFailed as error:
        raise Fault(str(error)) from error
    uvicorn.run(create_app(settings, engine), host=settings.host, port=settings.port)


@cli.command(epilog=_EPILOG_SAMPLE)
@click.option("--model", default="digits", show_default=True, help="Shipped name or path.")
@click.option("--class", "class_", help="Name or index of a class; none if absent.")
@click.option("--steps", type=click.IntRange(1), default=50, show_default=True)
@click.option("--guidance-scale", type=click.FloatRange(0, 20), help="[default: the model's]")
@click.option("--eta", type=click.FloatRange(0, 1), default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="[default: random]")
@click.option("--n", type=click.IntRange(1, 1024), default=1, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
@click.option("--device", default="auto", show_default=True)
def sample(
    model: str,
    class_: str | None,
    steps: int,
    guidance_scale: float | None,
    eta: float,
    seed: int | None,
    n: int,
    out: Path,
    device: str,
) -> None:
    """Draw images without a server: the same request, the same pixels."""
    from app.engine.job import Params, Pixels
    from app.engine.runner import Runner
    from app.images import describe, encode_png
    from models.pipeline import to_uint8

    with _one_line():
        folder = find(model)
        runner = Runner.open(folder.name, folder, device, "float32")
        latent_diffusion, info = runner.model, runner.info
        seed = secrets.randbelow(2**32) if seed is None else seed
        scale = info.guidance_scale if guidance_scale is None else guidance_scale
        index = latent_diffusion.classes.index(class_)
        params = Params(folder.name, index, steps, scale, eta, seed, n)
        seeds = [params.seed_of(k) for k in range(n)]
        images = latent_diffusion.sample(
            [index] * n, seeds, steps=steps, guidance_scale=scale, eta=eta
        )
        for k, image in enumerate(to_uint8(images)):
            height, width, channels = image.shape
            pixels = Pixels(width, height, channels, image.numpy().tobytes())
            path = out if n == 1 else out.with_stem(f"{out.stem}-{seeds[k]}")
            path.write_bytes(encode_png(pixels, describe(params, k, info)))
            click.echo(path)


@cli.group()
def train() -> None:
    """Train a model: first the autoencoder (vae), then the UNet (diffusion)."""


def _training_options(command: click.decorators.FC) -> click.decorators.FC:
    for option in reversed(
        [
            click.argument("recipe"),
            click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True),
            click.option("--data-dir", type=click.Path(path_type=Path), help="Holds mnist/ ..."),
            click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE"),
            click.option("--images", type=int, help="Images to train on, repeats counted."),
            click.option("--batch-size", type=int),
            click.option("--seed", type=int),
            click.option("--device", default="auto", show_default=True),
            click.option("--resume", is_flag=True, help="Go on with the run in --out."),
        ]
    ):
        command = option(command)
    return command


@train.command("vae", epilog=_EPILOG_TRAIN)
@_training_options
@click.option("--kl-weight", type=float, help="Weight of the KL term.")
def train_vae_command(
    recipe: str,
    out: Path,
    data_dir: Path | None,
    overrides: tuple[str, ...],
    device: str,
    resume: bool,
    **flags: float | None,
) -> None:
    """Train the autoencoder of RECIPE (a shipped name or a .toml file) into OUT/vae."""
    with _one_line():
        from models.training.data import default_folder
        from models.training.recipe import Recipe
        from models.training.vae import train_vae

        read = Recipe.read(recipe, [*overrides, *_flags("train.vae", flags)])
        folder = train_vae(read, data_dir or default_folder(), out, device=device, resume=resume)
    click.echo(folder)


@train.command("diffusion", epilog=_EPILOG_TRAIN)
@_training_options
@click.option(
    "--vae",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the trained autoencoder.",
)
def train_diffusion_command(
    recipe: str,
    out: Path,
    vae: Path,
    data_dir: Path | None,
    overrides: tuple[str, ...],
    device: str,
    resume: bool,
    **flags: float | None,
) -> None:
    """Train the UNet of RECIPE on a VAE's latents into the model folder OUT/model."""
    with _one_line():
        from models.training.data import default_folder
        from models.training.diffusion import train_diffusion
        from models.training.recipe import Recipe

        read = Recipe.read(recipe, [*overrides, *_flags("train.diffusion", flags)])
        folder = train_diffusion(
            read, vae, data_dir or default_folder(), out, device=device, resume=resume
        )
    click.echo(folder)


@cli.command(epilog=_EPILOG_EVALUATE)
@click.option("--model", default="digits", show_default=True, help="Shipped name or path.")
@click.option("--data", "source", default="mnist", show_default=True, help="Real images.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Holds mnist/ ...")
@click.option("--samples", type=click.IntRange(2), default=5000, show_default=True)
@click.option("--steps", default="10,20,100", show_default=True, help="By commas.")
@click.option("--guidance-scale", help="By commas. [default: the model's]")
@click.option("--eta", type=click.FloatRange(0, 1), default=0.0, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**62), default=0, show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON report.")
@click.option("--device", default="auto", show_default=True)
def evaluate(
    model: str,
    source: str,
    data_dir: Path | None,
    samples: int,
    steps: str,
    guidance_scale: str | None,
    eta: float,
    seed: int,
    out: Path | None,
    device: str,
) -> None:
    """Class accuracy, Fréchet distance, precision and recall, against real test images."""
    with _one_line():
        from app.engine.runner import Runner
        from models.training.data import default_folder
        from models.training.evaluate import evaluate as measure
        from models.training.recipe import DataRecipe

        folder = find(model)
        opened = Runner.open(folder.name, folder, device, "float32").model
        scales = _numbers(guidance_scale) if guidance_scale else [opened.guidance_scale]
        settings = [(int(count), scale) for scale in scales for count in _numbers(steps)]
        size, channels = opened.image_size[0], opened.vae.config.out_channels
        data = DataRecipe.from_dict(
            {"source": source, "size": size, "channels": channels}, "--data"
        )
        for report in measure(
            opened,
            data,
            data_dir or default_folder(),
            samples=samples,
            settings=settings,
            eta=eta,
            seed=seed,
            cache=default_folder(),
        ):
            if out is not None:
                out.write_text(report.to_json(), encoding="utf-8")
            click.echo(f"{len(report.rows) - 2} of {len(settings)} settings measured", err=True)
        click.echo(report.to_table())
        click.echo(
            f"\n{samples} samples; classifier {report.classifier}, "
            f"{report.classifier_accuracy:.2%} right on the real test images; "
            f"reconstructions {report.reconstruction_psnr:.1f} dB"
        )


@cli.group()
def data() -> None:
    """Data sets to train on."""


@data.command("get", epilog="\b\nExample:\n  darkroom data get mnist")
@click.argument("name")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path))
def data_get(name: str, data_dir: Path | None) -> None:
    """Download NAME (mnist or fashion-mnist), checking every file's SHA-256."""
    with _one_line():
        from models.training.data import SOURCES, default_folder, download

        folder = download(name, data_dir or default_folder())
        click.echo(f"{folder}  ({SOURCES[name].licence})")


@cli.command("models")
def list_models() -> None:
    """The models that ship with Darkroom."""
    for name, folder in shipped().items():
        click.echo(f"{name}  {folder}")


def _flags(table: str, flags: dict[str, float | None]) -> list[str]:
    """Flags as overrides of a recipe."""
    return [f"{table}.{name}={value}" for name, value in flags.items() if value is not None]


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise Fault(f"{text!r} is not numbers by commas, as 10,20,100") from error


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn the errors users can mend into one line on stderr and exit status 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Fault(f"{error.name} is not installed: pip install 'darkroom[train]'") from error
    except (ValueError, OSError) as error:  # CheckpointError, DataError, TrainingError among them
        raise Fault(str(error)) from error


def main() -> None:
    """Entry point of the `darkroom` command."""
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
