"""From a dialect's values to an order: lenient in, the native request underneath."""

from collections.abc import Mapping
from typing import Any

from app.drawing import Order
from app.engine.model_info import ModelInfo
from app.errors import InvalidRequest
from app.prompts import class_of
from app.schemas import GenerateRequest


def to_order(
    models: Mapping[str, ModelInfo],
    prompt: str,
    values: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    prompt_field: str = "prompt",
    within: str = "",
) -> Order:
    """What a dialect asks for, as the engine takes it.

    Args:
        models: those loaded.
        prompt: names a class, where the model has classes.
        values: native field -> value; None is left out, and so is a seed of -1.
        names: native field -> what the dialect calls it, for errors.
        prompt_field: what the dialect calls the prompt.
        within: the object that has the values, where they are not at the top of the body.

    Raises:
        UnknownModel, InvalidRequest: in the dialect's names.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("seed") == -1:  # random, to those who take it from Stable Diffusion
        del given["seed"]
    model = models.get(str(given.get("model", next(iter(models)))))
    try:
        if model is not None:  # else the request says that it is unknown
            given["class"] = class_of(prompt, model, prompt_field)
        return GenerateRequest.parse(given, strict=False).to_order(models)
    except InvalidRequest as error:
        wrong = {names.get(name, name): detail for name, detail in error.wrong.items()}
        raise InvalidRequest(wrong, "" if prompt_field in wrong else within) from error
