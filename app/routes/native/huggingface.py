"""Hugging Face's inference API: {"inputs", "parameters"} -> an image.

https://huggingface.co/docs/inference-providers/tasks/text-to-image
"""

from collections.abc import Mapping
from typing import Any

from fastapi import Request, Response
from pydantic import Field

from app.dependencies import early_studio
from app.engine.job import Request as Asked
from app.errors import InvalidRequest
from app.generation import Studio
from app.http.body import JSON, read_body
from app.http.routing import Router
from app.routes.dialects import to_request as translate
from app.routes.native import docs
from app.routes.native.answers import answer, preferred
from app.schemas.fields import ClipSkip, Eta, Fields, Name, Negative, Scale, Seed, Side, Steps
from app.schemas.prompts import allowed_prompt, asked_of

router = Router(tags=["huggingface"])


class TextToImageParameters(Fields):
    """How to draw. Others are ignored."""

    negative_prompt: Negative = None
    clip_skip: ClipSkip = None
    num_inference_steps: Steps = Field(None, description="Steps of the sampler.")
    guidance_scale: Scale = Field(
        None, description="Classifier-free guidance scale; the model's default if absent."
    )
    seed: Seed = Field(None, description="Random if absent or -1.")
    eta: Eta = Field(None, description="Noise of DDIM: 0 for none, 1 for as much as DDPM.")
    scheduler: Name = Field(
        None, description="The sampler: a name of ours, or of a scheduler class of diffusers."
    )
    width: Side = Field(None, description="Pixels; ignored by models of one size.")
    height: Side = Field(None, description="Pixels; ignored by models of one size.")


_BODY = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {
            "type": "string",
            "description": "A prompt; names a class, if the model takes classes.",
        },
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
    """Draw an image of what `inputs` says, or of the class that it names, with the path's model."""
    studio = await early_studio(request).opened(model=name)
    values, _ = await read_body(request)
    generation = studio.generation(to_request(values | {"model": name}, studio))
    return await answer(generation, request, preferred(request, 1))


def to_request(values: Mapping[str, Any], studio: Studio) -> Asked:
    """What a body asks for; it is one image, as these clients expect a file.

    Raises:
        InvalidRequest, UnknownModel: in the names of this API.
    """
    prompt, parameters = values.get("inputs"), values.get("parameters")
    if not isinstance(prompt, str):
        allowed = allowed_prompt(asked_of(values.get("model"), studio.models))
        raise InvalidRequest({"inputs": f"must be a string (allowed: {allowed})"})
    if not isinstance(parameters, dict | None):
        raise InvalidRequest({"parameters": "must be an object or null"})
    wanted = TextToImageParameters.parse(parameters or {}, within="parameters")
    native = {
        "model": values.get("model") or None,
        "negative_prompt": wanted.negative_prompt,
        "clip_skip": wanted.clip_skip,
        "steps": wanted.num_inference_steps,
        "guidance_scale": wanted.guidance_scale,
        "seed": wanted.seed,
        "eta": wanted.eta,
        "sampler": wanted.scheduler,
        "width": wanted.width,
        "height": wanted.height,
    }
    names = {"steps": "num_inference_steps", "sampler": "scheduler", "spacing": "scheduler"}
    return translate(studio, prompt, native, names, prompt_field="inputs", within="parameters")
