"""Hugging Face's inference API: {"inputs", "parameters"} -> an image.

https://huggingface.co/docs/inference-providers/tasks/text-to-image
"""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import Field

from app import docs
from app.answers import answer
from app.dependencies import studio_of
from app.dialects import to_order as translate
from app.drawing import Order
from app.engine.model_info import ModelInfo
from app.errors import InvalidRequest
from app.prompts import allowed_prompt, asked_of
from app.reading import JSON, read_body
from app.routes.fields import Eta, Fields, Scale, Seed, Steps
from app.routing import Router

router = Router(tags=["huggingface"])


class TextToImageParameters(Fields):
    """How to draw. Others are ignored, `negative_prompt`, `width`, `scheduler` among them."""

    num_inference_steps: Steps = Field(None, description="DDIM steps.")
    guidance_scale: Scale = Field(
        None, description="Classifier-free guidance scale; the model's default if absent."
    )
    seed: Seed = Field(None, description="Random if absent or -1.")
    eta: Eta = Field(None, description="0: deterministic (DDIM); 1: as much noise as DDPM.")


_BODY = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"type": "string", "description": "Names a class."},
        "parameters": {"anyOf": [TextToImageParameters.model_json_schema(), {"type": "null"}]},
    },
}
_EXAMPLES = {
    "digit": {"summary": "A digit", "value": {"inputs": "7"}},
    "again": {
        "summary": "The same digit every time",
        "value": {"inputs": "a 7", "parameters": {"num_inference_steps": 20, "seed": 1}},
    },
}
_OPERATION = docs.HUGGINGFACE | {
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": _BODY, "examples": _EXAMPLES}},
        }
    }
}


@router.post("/models/{name}", **_OPERATION)
async def text_to_image(request: Request, name: str) -> Response:
    """Draw an image of the class that `inputs` names, with the model of the path."""
    studio = await studio_of(request)
    values, _ = await read_body(request)
    order = to_order(values | {"model": name}, studio.models)
    return await answer(studio, request, order)


def to_order(values: Mapping[str, Any], models: Mapping[str, ModelInfo]) -> Order:
    """What a body asks for; it is one image, as these clients expect a file.

    Raises:
        InvalidRequest, UnknownModel: in the names of this API.
    """
    prompt, parameters = values.get("inputs"), values.get("parameters")
    if not isinstance(prompt, str):
        allowed = allowed_prompt(asked_of(values.get("model"), models))
        raise InvalidRequest({"inputs": f"must be a string (allowed: {allowed})"})
    if not isinstance(parameters, dict | None):
        raise InvalidRequest({"parameters": "must be an object or null"})
    wanted = TextToImageParameters.parse(parameters or {}, within="parameters")
    native = {
        "model": values.get("model") or None,
        "steps": wanted.num_inference_steps,
        "guidance_scale": wanted.guidance_scale,
        "seed": wanted.seed,
        "eta": wanted.eta,
    }
    names = {"steps": "num_inference_steps"}
    return translate(models, prompt, native, names, prompt_field="inputs", within="parameters")
