"""The command line: darkroom serve | sample | train | evaluate | data | models."""

import secrets
import signal
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from app import cli_training
from app.console import Fault, FiniteRange, one_line
from app.engine.job import DEFAULT_STEPS, MAX_GUIDANCE_SCALE, MAX_SEED
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
        )
    )
    engine.supervisor.refused = lambda: setattr(server, "should_exit", True)
    server.run()
    if engine.supervisor.fault is not None:
        raise Fault(engine.supervisor.fault)


@cli.command(epilog=_EPILOG_SAMPLE)
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
    from app.engine.runner import Runner
    from app.engine.wire import Load
    from app.images import PNG, describe, encode
    from models.conditioning import Classes

    with one_line():
        folder = find(model)
        load = Load({}, device, "float32", "auto", compile=False, slots=64, rows=None)
        runner = Runner.open(folder.name, folder, load)
        info = runner.info
        seed = secrets.randbelow(2**32) if seed is None else seed
        scale = info.guidance_scale if guidance_scale is None else guidance_scale
        steps = min(DEFAULT_STEPS, info.max_steps) if steps is None else steps
        index = Classes(info.classes, info.null_class).index(class_)
        wanted = Params(folder.name, index, steps, scale, guidance_interval, eta, seed, n)
        params = wanted.canonical(info)
        for k, pixels in enumerate(draw(runner, params)):
            path = out if n == 1 else out.with_stem(f"{out.stem}-{params.seed_of(k)}")
            path.write_bytes(encode(pixels, PNG, describe(params, k, info)))
            click.echo(path)


@cli.command("models")
def list_models() -> None:
    """The models that ship with Darkroom."""
    for name, folder in shipped().items():
        click.echo(f"{name}  {folder}")


for command in (cli_training.train, cli_training.evaluate, cli_training.data):
    cli.add_command(command)


def main() -> None:
    """Entry point of the `darkroom` command."""
    try:
        cli()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
