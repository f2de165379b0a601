"""A model opened in this process, for commands that draw."""

from typing import TYPE_CHECKING

from models.library import Located

if TYPE_CHECKING:
    from app.engine.runner import Runner


def open_runner(model: Located, device: str) -> "Runner":
    """A model, ready to draw as the server does."""
    from app.engine.runner import Runner
    from app.engine.wire import Load

    load = Load({}, device, "float32", "auto", compile=False, slots=64, rows=None)
    return Runner.open(model.name, model.fetched(), load)
