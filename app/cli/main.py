"""The command line: darkroom serve | sample | verify | train | evaluate | data | models | key."""

import signal
import sys
from typing import TYPE_CHECKING

import click
from pydantic import ValidationError

from app.cli.console import Fault, check_folder, open_standard_streams, share_cores
from app.cli.keys import key
from app.cli.models import models
from app.cli.sample import sample
from app.cli.train import data, evaluate, train
from app.cli.verify import verify

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EPILOG_SERVE = """\b
Examples:
  darkroom serve
  darkroom serve --models digits,runs/shoes/model --port 9000
"""


@click.group(epilog="\b\nExample:\n  darkroom sample --class 7")
@click.version_option(package_name="darkroom")
def cli() -> None:
    """Darkroom: train latent diffusion models, and serve them."""
    check_folder()


@cli.command(epilog=_EPILOG_SERVE)
@click.option(
    "--models",
    help="Comma-separated: shipped names, paths, owner/name of the hub. [default: digits]",
)
@click.option("--host", help="Name or address to listen on. [default: localhost]")
@click.option("--port", type=int, help="Port to listen on. [default: 8000]")
@click.option("--device", help="cpu, cuda, cuda:1, or auto. [default: auto]")
@click.option("--slots", type=int, help="Images in flight at once, per model. [default: by device]")
def serve(**options: str | int | None) -> None:
    """Serve models over HTTP; DARKROOM_* variables are the other settings."""
    # Until the server handles them: process 1 of a container ignores signals without a handler.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    from app.launching import create_engine
    from app.settings import Settings

    try:
        settings = Settings(**{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise Fault(f"settings: {'; '.join(map(_told, error.errors()))}") from error
    engine = create_engine(settings)
    engine.fleet.launch()  # the models load while the rest is imported

    from app.main import create_app
    from app.serving.listening import CannotListen
    from app.serving.server import Server

    try:
        server = Server(create_app(settings, engine), settings, engine)
    except CannotListen as error:
        raise Fault(str(error)) from error
    engine.fleet.refused = lambda: setattr(server, "should_exit", True)
    server.run()
    if engine.fleet.fault is not None:
        raise Fault(engine.fleet.fault)


def _told(error: "ErrorDetails") -> str:
    """What is wrong with a setting, by the name of its variable."""
    names = (str(part).upper().removeprefix("DARKROOM_") for part in error["loc"][:1])
    said = error["msg"].removeprefix("Value error, ")
    return ": ".join([*(f"DARKROOM_{name}" for name in names), said])


for command in (sample, verify, models, key, train, evaluate, data):
    cli.add_command(command)


def main() -> None:
    """Entry point of the `darkroom` command."""
    open_standard_streams()
    share_cores()
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)
