"""POST /generate: the native API."""

import asyncio
import base64
import io
import zipfile
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request, Response
from pydantic import BaseModel

from app.dependencies import AcceptingEngineDep
from app.engine.job import ModelInfo, Params, Pixels
from app.errors import MEDIA_TYPE, NotAcceptable, Problem
from app.images import describe, encode_png
from app.schemas import GenerateRequest, GenerateResponse, ImageOut

router = APIRouter(tags=["generate"])

_PNG, _JSON, _ZIP = "image/png", "application/json", "application/zip"
_CLIENT_LEFT = 499  # nginx's code; nobody is there to read it


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model whose parts are inside it: it stands in any document as it is."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                return resolve(parts[value["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(part) for key, part in value.items()}
        return [resolve(part) for part in value] if isinstance(value, list) else value

    resolved: dict[str, Any] = resolve(schema)
    return resolved


_EXAMPLES = {
    "a digit": {"value": {"class": "7", "steps": 50, "seed": 1}},
    "quick": {"value": {"class": "3", "steps": 10}},
    "sixteen at once": {"value": {"class": "0", "steps": 20, "n": 16, "seed": 100}},
    "any digit, ancestral": {"value": {"class": None, "steps": 100, "eta": 1.0}},
}
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": _inlined(Problem)}}}


@router.post(
    "/generate",
    summary="Draw images",
    response_class=Response,
    responses={
        200: {
            "description": "One image as PNG; several as JSON with base64, or as a zip.",
            "content": {
                _PNG: {},
                _JSON: {"schema": _inlined(GenerateResponse)},
                _ZIP: {},
            },
            "headers": {"X-Seed": {"schema": {"type": "integer"}, "description": "Seed used."}},
        },
        **{
            status: {**_PROBLEM, "description": text}
            for status, text in {
                400: "Broken JSON",
                404: "Unknown model",
                406: "No format the client accepts",
                413: "Body too large",
                422: "A field is wrong",
                429: "Queue full, or too long for the deadline; see Retry-After",
                503: "Not ready",
                504: "Not done in time",
            }.items()
        },
    },
)
async def generate(
    request: Request,
    body: Annotated[GenerateRequest, Body(openapi_examples=_EXAMPLES)],
    engine: AcceptingEngineDep,
) -> Response:
    """Draw `n` images of a class with DDIM. The same request gives the same pixels every time."""
    media_type = _negotiate(request.headers.get("accept", ""), body.n)
    params = body.to_params(engine.models)
    work = engine.generate(params, priority=body.priority, timeout=body.timeout)
    pixels = await _unless_gone(request, work)
    if pixels is None:
        return Response(status_code=_CLIENT_LEFT)
    info = engine.models[params.model]
    content = await asyncio.to_thread(_render, media_type, pixels, params, info)
    return Response(content, media_type=media_type, headers={"X-Seed": str(params.seed)})


async def _unless_gone(
    request: Request, images: Coroutine[Any, Any, tuple[Pixels, ...]]
) -> tuple[Pixels, ...] | None:
    """The images, or None as soon as the client has left; its slots are then free."""
    work = asyncio.create_task(images)
    gone = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        return await work if work.done() else None
    finally:
        gone.cancel()
        work.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _render(media_type: str, pixels: tuple[Pixels, ...], params: Params, info: ModelInfo) -> bytes:
    """All images of a request in one body."""
    files = [encode_png(image, describe(params, k, info)) for k, image in enumerate(pixels)]
    if media_type == _PNG:
        return files[0]
    if media_type == _ZIP:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as folder:
            for k, file in enumerate(files):
                entry = zipfile.ZipInfo(f"{params.seed_of(k)}.png")  # dated 1980: same bytes again
                folder.writestr(entry, file)
        return archive.getvalue()
    response = GenerateResponse(
        model=params.model,
        class_=None if params.class_index is None else info.classes[params.class_index],
        steps=params.steps,
        guidance_scale=params.guidance_scale,
        guidance_interval=params.guidance_interval,
        eta=params.eta,
        seed=params.seed,
        images=[
            ImageOut(seed=params.seed_of(k), data=base64.b64encode(file).decode())
            for k, file in enumerate(files)
        ],
    )
    return response.model_dump_json(by_alias=True).encode()


def _negotiate(accept: str, n: int) -> str:
    """The format to answer in: what the client likes best of what fits `n` images. RFC 9110, 12.5.

    Raises:
        NotAcceptable: nothing it names fits.
    """
    offers = [_PNG, _JSON, _ZIP] if n == 1 else [_JSON, _ZIP]
    wanted: dict[str, float] = {}
    for part in accept.split(","):
        name, *arguments = (piece.strip() for piece in part.split(";"))
        quality = 1.0
        for argument in arguments:
            key, _, value = argument.partition("=")
            if key == "q":
                quality = _number(value)
        wanted[name.lower()] = quality
    if not accept.strip():
        return offers[0]

    def liking(offer: str) -> float:
        names = (offer, offer.split("/")[0] + "/*", "*/*")
        return next((wanted[name] for name in names if name in wanted), 0.0)

    best = max(offers, key=liking)  # the first of equals
    if liking(best) <= 0:
        raise NotAcceptable(f"Accept {accept[:40]!r} fits none of: {', '.join(offers)}")
    return best


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
