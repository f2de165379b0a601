"""The commands that need the `train` extra: darkroom train | evaluate | data."""

from pathlib import Path

import click

from app.cli.console import FiniteRange, Numbers, one_line
from models.library import find
from models.sampling import SAMPLERS, SPACINGS, Spacing

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


@click.group()
def train() -> None:
    """Train a model: first the autoencoder (vae), then the UNet (diffusion)."""


def _training_options(command: click.decorators.FC) -> click.decorators.FC:
    for option in reversed(
        [
            click.argument("recipe"),
            click.option(
                "--out",
                type=click.Path(file_okay=False, path_type=Path),
                required=True,
                help="Folder of the run.",
            ),
            click.option(
                "--data-dir",
                type=click.Path(path_type=Path),
                help="Holds mnist/ or your folder. [default: ~/.cache/darkroom]",
            ),
            click.option(
                "--set",
                "overrides",
                multiple=True,
                metavar="TABLE.KEY=VALUE",
                help="Override a value of the recipe.",
            ),
            click.option("--images", type=int, help="Images to train on, repeats counted."),
            click.option("--batch-size", type=int, help="Images per optimizer step."),
            click.option("--seed", type=int, help="Of everything random in the run."),
            click.option(
                "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto."
            ),
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
    with one_line():
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
    with one_line():
        from models.training.data import default_folder
        from models.training.diffusion import train_diffusion
        from models.training.recipe import Recipe

        read = Recipe.read(recipe, [*overrides, *_flags("train.diffusion", flags)])
        folder = train_diffusion(
            read, vae, data_dir or default_folder(), out, device=device, resume=resume
        )
    click.echo(folder)


@click.command(epilog=_EPILOG_EVALUATE)
@click.option("--model", default="digits", show_default=True, help="Shipped name or path.")
@click.option(
    "--data",
    "source",
    help="Real images: a data set or a folder. [default: what the model was trained on]",
)
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    help="Holds mnist/ or your folder. [default: ~/.cache/darkroom]",
)
@click.option(
    "--samples", type=click.IntRange(1), default=2000, show_default=True, help="Images per setting."
)
@click.option(
    "--steps", type=Numbers(int), default="10,20,100", show_default=True, help="Comma-separated."
)
@click.option(
    "--guidance-scale", type=Numbers(float), help="Comma-separated. [default: the model's]"
)
@click.option("--sampler", type=click.Choice(list(SAMPLERS)), help="[default: the model's]")
@click.option(
    "--spacing",
    type=click.Choice(SPACINGS),
    help="How noise levels are spaced. [default: the model's]",
)
@click.option(
    "--eta",
    type=FiniteRange(0, 1),
    default=0.0,
    show_default=True,
    help="Noise of ddim: 0 for none, 1 for as much as DDPM.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**62),
    default=0,
    show_default=True,
    help="Image k uses seed + k.",
)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="JSON report.")
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def evaluate(
    model: str,
    source: str | None,
    data_dir: Path | None,
    samples: int,
    steps: list[int],
    guidance_scale: list[float] | None,
    sampler: str | None,
    spacing: Spacing | None,
    eta: float,
    seed: int,
    out: Path | None,
    device: str,
) -> None:
    """Class accuracy, Fréchet distance, precision and recall, against real test images."""
    with one_line():
        from models.pipeline import LatentDiffusion
        from models.training.data import default_folder
        from models.training.evaluate import evaluate as measure
        from models.training.record import find_trained_on

        folder = find(model)
        opened = LatentDiffusion.open(folder, device=device, block_rows=64)
        scales = guidance_scale or [opened.guidance_scale]
        settings = [(count, scale) for scale in scales for count in steps]
        size, channels = opened.image_size[0], opened.vae.config.out_channels
        trained_on, data_dir = find_trained_on(
            folder,
            opened.classes.names,
            size,
            channels,
            source=source,
            data_dir=data_dir,
            default_dir=default_folder(),
        )
        for report in measure(
            opened,
            trained_on,
            data_dir,
            samples=samples,
            settings=settings,
            sampler=sampler,
            spacing=spacing,
            eta=eta,
            seed=seed,
            cache=default_folder(),
        ):
            if out is not None:
                out.write_text(report.to_json(), encoding="utf-8")
            click.echo(f"{len(report.rows) - 2} of {len(settings)} settings measured", err=True)
        click.echo(report.to_table())
        click.echo(
            f"\n{report.sampler}, spacing {report.spacing}; {samples} samples; "
            f"classifier {report.classifier}, "
            f"{report.classifier_accuracy:.2%} right on {report.held_out} real test images; "
            f"real training images through the VAE: {report.reconstruction_psnr:.1f} dB"
        )
        if report.caution is not None:
            click.echo(f"* not fit to judge by: {report.caution}")


@click.group()
def data() -> None:
    """Data sets to train on."""


@data.command("get", epilog="\b\nExample:\n  darkroom data get mnist")
@click.argument("name")
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="[default: ~/.cache/darkroom]",
)
def data_get(name: str, data_dir: Path | None) -> None:
    """Download NAME (mnist or fashion-mnist), checking every file's SHA-256."""
    with one_line():
        from models.training.data import SOURCES, default_folder, download

        folder = download(name, data_dir or default_folder())
        click.echo(f"{folder}  ({SOURCES[name].licence})")


def _flags(table: str, flags: dict[str, float | None]) -> list[str]:
    """Flags as overrides of a recipe."""
    return [f"{table}.{name}={value}" for name, value in flags.items() if value is not None]
