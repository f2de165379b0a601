"""A model opened in this process, for commands that draw."""

from typing import TYPE_CHECKING

from app.engine.job import SamplingParams
from app.engine.model_runner import ModelRunner
from models.library import Located

if TYPE_CHECKING:
    from app.engine.runner import Runner


def open_runner(model: Located, device: str) -> "Runner":
    """A model, ready to draw as the server does."""
    from app.engine.runner import Runner
    from app.engine.wire import Load

    load = Load({}, device, "float32", "auto", compile=False, slots=64, rows=None)
    return Runner.open(model.name, model.fetched(), load)


def runner_for(params: SamplingParams, runner: ModelRunner) -> ModelRunner:
    """The runner of these images' size, by that of their model; raises `ValueError` as `at`."""
    if params.lane == runner.info.lane:
        return runner
    return runner.at(params.width, params.height)
