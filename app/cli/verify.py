"""`darkroom verify`: a picture drawn again from its own metadata."""

import sys
from pathlib import Path

import click

from app.cli.opening import open_runner, prediction_option, runner_for
from app.engine.errors import EngineError
from models.sampling import Prediction

_EPILOG_VERIFY = """\b
Examples:
  darkroom verify seven.png
  darkroom verify shoe.webp --model runs/shoes/model
Exit status: 0 same, 1 differs, 2 nothing to compare it with.
"""


@click.command(epilog=_EPILOG_VERIFY)
@click.argument("picture", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--model",
    help="Shipped name, path, or name on the hub. [default: the model that the picture names]",
)
@prediction_option
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 or auto.")
def verify(picture: Path, model: str | None, prediction: Prediction | None, device: str) -> None:
    """Draw a picture again from its own metadata, and say whether it is the same."""
    from app.cli.verification import claim_of, compare, folder_of, params_of
    from app.engine.offline import draw
    from app.files.formats import open_image
    from app.files.pictures import read_file

    try:
        opened = open_image(read_file(picture))
        claim = claim_of(opened)
        runner = open_runner(folder_of(claim, model), device, prediction)
        params = params_of(claim, runner.info)
        verdict = compare(opened, draw(runner_for(params, runner), params)[0])
    except (ValueError, OSError, EngineError) as error:
        click.echo(f"{picture}: {' '.join(str(error).split())}", err=True)
        sys.exit(2)
    click.echo(f"{picture}: {verdict}")
    sys.exit(0 if verdict.same else 1)
