"""Hugging Face's inference API: {"inputs", "parameters"} -> an image.

https://huggingface.co/docs/inference-providers/tasks/text-to-image
"""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from app import docs
from app.answers import answer
from app.dependencies import StudioDep
from app.dialects import to_order as translate
from app.drawing import Order
from app.engine.job import ModelInfo
from app.errors import InvalidRequest
from app.reading import read_body

router = APIRouter(tags=["huggingface"])
_NAMES = {"steps": "num_inference_steps", "n": "num_images_per_prompt"}


@router.post("/models/{name}", **docs.HUGGINGFACE)
async def text_to_image(request: Request, name: str, studio: StudioDep) -> Response:
    """Draw an image of the class that `inputs` names, with the model of the path."""
    values, _ = await read_body(request)
    order = to_order(values | {"model": name}, studio.models)
    return await answer(studio, request, order)


def to_order(values: Mapping[str, Any], models: Mapping[str, ModelInfo]) -> Order:
    """What a body asks for; parameters that mean nothing here are ignored.

    Raises:
        InvalidRequest, UnknownModel: in the names of this API.
    """
    prompt, parameters = values.get("inputs"), values.get("parameters") or {}
    if not isinstance(prompt, str):
        raise InvalidRequest({"inputs": "must be a string"})
    if not isinstance(parameters, dict):
        raise InvalidRequest({"parameters": "must be an object"})
    native = {
        "model": values.get("model"),
        "steps": parameters.get("num_inference_steps"),
        "guidance_scale": parameters.get("guidance_scale"),
        "seed": parameters.get("seed"),
        "eta": parameters.get("eta"),
    }
    return translate(models, prompt, native, _NAMES, prompt_field="inputs")
