"""A model opened in this process, for commands that draw."""

from typing import TYPE_CHECKING, get_args

import click

from app.engine.job import SamplingParams
from app.engine.model_runner import ModelRunner
from models.library import Located
from models.sampling import Prediction

if TYPE_CHECKING:
    from app.engine.runner import Runner


prediction_option = click.option(
    "--prediction",
    type=click.Choice(get_args(Prediction)),
    help="What the UNet of a .safetensors file predicts. [default: told from the file]",
)


def open_runner(model: Located, device: str, prediction: Prediction | None = None) -> "Runner":
    """A model, ready to draw as the server does."""
    from app.engine.runner import Runner
    from app.engine.wire import Load

    load = Load(
        {},
        device,
        "float32",
        "auto",
        compile=False,
        slots=64,
        rows=None,
        prediction=prediction,
    )
    return Runner.open(model.name, model.fetched(), load)


def runner_for(params: SamplingParams, runner: ModelRunner) -> ModelRunner:
    """The runner of these images' size, by that of their model; raises `ValueError` as `at`."""
    if params.lane == runner.info.lane:
        return runner
    return runner.at(params.width, params.height)
