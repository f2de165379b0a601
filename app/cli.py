"""The command line: darkroom serve | sample | verify | train | evaluate | data | models."""

import signal
import sys

import click
from pydantic import ValidationError

from app import cli_drawing, cli_training
from app.console import Fault
from models.library import shipped

_EPILOG_SERVE = """\b
Examples:
  darkroom serve
  darkroom serve --models digits,runs/shoes/model --port 9000
"""


@click.group(epilog="\b\nExample:\n  darkroom sample --class 7 --seed 1 --out seven.png")
@click.version_option(package_name="darkroom")
def cli() -> None:
    """Darkroom: train latent diffusion models, and serve them."""


@cli.command(epilog=_EPILOG_SERVE)
@click.option(
    "--models", help="Comma-separated names of shipped models or paths. [default: digits]"
)
@click.option("--host", help="Address to listen on. [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on. [default: 8000]")
@click.option("--device", help="cpu, cuda, cuda:1, or auto. [default: auto]")
@click.option("--slots", type=int, help="Images in flight at once, a model. [default: 64]")
def serve(**options: str | int | None) -> None:
    """Serve models over HTTP; DARKROOM_* variables set what options do not."""
    from app.main import create_engine
    from app.settings import Settings

    try:
        settings = Settings(**{k: v for k, v in options.items() if v is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = [
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].removeprefix('Value error, ')}"
            for e in error.errors()
        ]
        raise Fault(f"settings: {'; '.join(wrong)}") from error
    # Until uvicorn takes over: process 1 of a container ignores a signal it has no handler for.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    engine = create_engine(settings)
    engine.supervisor.launch()  # the models load while the rest comes up

    import uvicorn

    from app.main import create_app

    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, engine),
            host=settings.host,
            port=settings.port,
            timeout_graceful_shutdown=settings.drain_seconds,
            access_log=False,
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies),  # else from the environment
        )
    )
    engine.supervisor.refused = lambda: setattr(server, "should_exit", True)
    server.run()
    if engine.supervisor.fault is not None:
        raise Fault(engine.supervisor.fault)


@cli.command("models")
def list_models() -> None:
    """The models that ship with Darkroom."""
    for name, folder in shipped().items():
        click.echo(f"{name}  {folder}")


for command in (
    cli_drawing.sample,
    cli_drawing.verify,
    cli_training.train,
    cli_training.evaluate,
    cli_training.data,
):
    cli.add_command(command)


def main() -> None:
    """Entry point of the `darkroom` command."""
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
