"""OpenAI's Images API: lenient in, exact out.

https://platform.openai.com/docs/api-reference/images/create
"""

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Literal

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from app.dependencies import StudioDep, studio_of
from app.engine.errors import EngineError
from app.engine.job import SamplingParams
from app.engine.results import Preview, Result
from app.errors import Fault, InvalidRequest, fault_of, model_of
from app.files.formats import JPEG, PNG, WEBP, encode
from app.files.ids import image_id
from app.generation import Generation
from app.http import sse, vocabulary
from app.http.body import JSON, read_body
from app.http.problems import enveloped
from app.http.routing import Router
from app.http.sse import EventStream, event
from app.http.warnings import warn
from app.routes.native.answers import image_path
from app.routes.openai.schemas import (
    CompletedImageEvent,
    ErrorEnvelope,
    ImageData,
    ImageRequest,
    ImagesResponse,
    ModelEntries,
    ModelEntry,
    PartialImageEvent,
)
from app.schemas.prompts import allowed_prompt, asked_of

_KINDS = {"png": PNG, "jpeg": JPEG, "webp": WEBP}


def _envelope(fault: Fault) -> Response:
    return JSONResponse(
        ErrorEnvelope.of(fault).model_dump(),
        status_code=400 if fault.status == 422 else fault.status,
        headers=dict(fault.headers),
    )


def _schema(model: type[BaseModel], mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    """A model's schema for a place where FastAPI does not put it; others name what it refers to."""
    template = "#/components/schemas/{model}"
    schema = model.model_json_schema(ref_template=template, mode=mode)
    return {key: value for key, value in schema.items() if key != "$defs"}


router = Router(tags=["openai"], route_class=enveloped(_envelope))
_LISTED = {"description": "The loaded models.", "headers": vocabulary.headers()}
_EVENT = {  # of a stream, as Schemathesis reads one
    "type": "object",
    "required": ["event", "data"],
    "properties": {
        "event": {
            "type": "string",
            "enum": ["image_generation.partial_image", "image_generation.completed", "error"],
        },
        "data": {
            "type": "string",
            "contentMediaType": JSON,
            "contentSchema": {
                "oneOf": [
                    _schema(PartialImageEvent, "serialization"),
                    _schema(CompletedImageEvent, "serialization"),
                    vocabulary.ref(ErrorEnvelope),
                ]
            },
        },
    },
}
_DRAWN = {
    "description": "Images, or events of which the last has the image.",
    "content": {sse.MEDIA_TYPE: {"schema": _EVENT}},
    "headers": vocabulary.headers("X-Seed", "Cache-Control", "Warning"),
}
_EXAMPLES = {
    "digit": {"summary": "A digit", "value": {"prompt": "7", "seed": 1}},
    "quick": {
        "summary": "Two images in ten steps",
        "value": {"prompt": "a 3", "n": 2, "num_inference_steps": 10},
    },
    "stream": {
        "summary": "With two previews",
        "value": {"prompt": "0", "stream": True, "partial_images": 2},
    },
}


@router.post(
    "/v1/images/generations",
    operation_id="openaiCreateImage",
    summary="Draw images, for OpenAI's clients",
    response_model=ImagesResponse,
    responses={
        200: _DRAWN,
        **vocabulary.envelopes(ErrorEnvelope, 400, 413, 415, *vocabulary.DRAWING_FAILS),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": _schema(ImageRequest, "validation"), "examples": _EXAMPLES}
            },
        }
    },
)
async def create_image(request: Request) -> Response:
    """Draw `n` images of a prompt, or of the class it names; with `stream`, tell on the way.

    `Accept` does not matter: OpenAI's own clients ask for JSON even where they stream.
    """
    studio = await studio_of(request)
    values, _ = await read_body(request)
    studio = await studio.opened(model=values.get("model"))
    told = allowed_prompt(asked_of(values.get("model"), studio.models))
    wanted = ImageRequest.parse(values, prompt=told)
    generation = studio.generation(wanted.to_request(studio))
    params = generation.params
    headers = {"X-Seed": str(params.seed)}
    warn(headers, wanted.cautions(_size(params)))
    if wanted.stream:
        return await EventStream.begin(generation.streamed(_narrate(generation, wanted)), headers)
    addresses = _addresses(request, generation, wanted) if wanted.linked else []
    result = await generation.draw()
    warn(headers, generation.cautions(result))
    if addresses:
        data = [ImageData(url=url) for url in addresses]
    else:
        files = await generation.files(result, _KINDS[wanted.kind], wanted.file_quality)
        data = [ImageData(b64_json=_text(file)) for file in files]
    answer = ImagesResponse(
        created=int(time.time()),
        data=data,
        output_format=wanted.kind,
        size=_size(params),
        seed=params.seed,
    )
    content = answer.model_dump_json(exclude_none=True)
    return Response(content, media_type=JSON, headers=headers | {"Cache-Control": "no-store"})


@router.get(
    "/v1/models",
    operation_id="openaiListModels",
    summary="List the models, for OpenAI's clients",
    responses={200: _LISTED, **vocabulary.WRONG, **vocabulary.envelopes(ErrorEnvelope, 500, 503)},
)
async def list_models(studio: StudioDep) -> ModelEntries:
    """Every model, loaded or not, by the name that a request gives."""
    return ModelEntries(data=[ModelEntry(id=name) for name in await studio.names()])


@router.get(
    "/v1/models/{model}",
    operation_id="openaiGetModel",
    summary="Describe a model, for OpenAI's clients",
    responses={200: _LISTED, **vocabulary.envelopes(ErrorEnvelope, 404, 500, 503)},
)
async def get_model(model: str, studio: StudioDep) -> ModelEntry:
    """One model by its name."""
    if model in await studio.names():
        return ModelEntry(id=model)
    return ModelEntry(id=model_of(model, studio.models).name)


async def _narrate(generation: Generation, wanted: ImageRequest) -> AsyncGenerator[bytes, None]:
    """The events of a request. What fails before the first raises, and is told as an error is."""
    shown, begun = 0, False
    try:
        async with aclosing(generation.follow()) as updates:
            async for news in updates:
                said = b"" if news else sse.KEEP_ALIVE
                for update in news:
                    if isinstance(update, Preview):
                        said += _partial(update, shown, wanted)
                        shown += 1
                    elif isinstance(update, Result):
                        said += await _completed(generation, wanted, update)
                if said:
                    yield said
                    begun = True
    except EngineError as error:
        if not begun:
            raise
        yield event("error", ErrorEnvelope.of(fault_of(error)))


def _partial(update: Preview, index: int, wanted: ImageRequest) -> bytes:
    pixels, kind = update.pixels, _KINDS[wanted.kind]
    told = PartialImageEvent(
        b64_json=_text(encode(pixels, kind, quality=wanted.file_quality)),
        partial_image_index=index,
        created_at=int(time.time()),
        output_format=wanted.kind,
        size=f"{pixels.width}x{pixels.height}",
    )
    return event(told.type, told)


async def _completed(generation: Generation, wanted: ImageRequest, result: Result) -> bytes:
    (file,) = await generation.files(result, _KINDS[wanted.kind], wanted.file_quality)
    told = CompletedImageEvent(
        b64_json=_text(file),
        created_at=int(time.time()),
        output_format=wanted.kind,
        size=_size(generation.params),
        seed=generation.params.seed,
        warnings=list(generation.cautions(result)),
    )
    return event(told.type, told)


def _addresses(request: Request, generation: Generation, wanted: ImageRequest) -> list[str]:
    """Where each image can be had; raises `InvalidRequest` if prompts are too long for that."""
    params, media_type = generation.params, _KINDS[wanted.kind].media_type
    paths = []
    for k in range(params.n):
        name = image_id(params, k, generation.info)
        if name is None:
            told = "must be 'b64_json', because the prompts are too long for an address"
            raise InvalidRequest({"response_format": told})
        paths.append(image_path(request, name, media_type))
    return [str(request.base_url.replace(path=path)) for path in paths]


def _size(params: SamplingParams) -> str:
    return f"{params.width}x{params.height}"


def _text(file: bytes) -> str:
    return base64.b64encode(file).decode()
