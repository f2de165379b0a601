"""/generate and /images: the native API."""

from fastapi import Request, Response

from app import docs, events
from app.answers import (
    IMAGES,
    answer,
    describing,
    formats,
    recall,
    without_body,
)
from app.dependencies import early_studio, studio_of
from app.drawing import Order
from app.errors import UnknownImage
from app.images import FORMATS, format_of
from app.negotiation import all_lines, negotiate
from app.permalink import params_of
from app.reading import gather, read_body
from app.routes import huggingface
from app.routing import Router
from app.schemas import GenerateRequest

router = Router(tags=["generate"])


@router.post("/generate", **docs.GENERATE)
async def generate(request: Request) -> Response:
    """Draw `n` images of a class with DDIM. The same request gives the same pixels every time.

    A body with `inputs` is read as Hugging Face's clients write it.
    """
    studio = early_studio(request)
    values, text = await read_body(request)
    if "inputs" in values and not text:
        studio = await studio.opened()
        order = huggingface.to_order(values, studio.models)
    else:
        wanted = GenerateRequest.parse(values, strict=not text, models=studio.models)
        studio = await studio.opened(wanted.timeout)
        order = wanted.to_order(studio.models)
    return await answer(studio, request, order)


@router.api_route("/generate", methods=["GET", "HEAD"], **docs.GENERATE_BY_QUERY)
async def generate_by_query(request: Request) -> Response:
    """As POST, from a query. With a seed, a repeated request can get 304: see `ETag`.

    What it means may change with the server's default model; `Content-Location` does not.
    """
    studio = early_studio(request)
    values = gather(request.query_params.multi_items())
    wanted = GenerateRequest.parse(values, strict=False, models=studio.models)
    studio = await studio.opened(wanted.timeout)
    order = wanted.to_order(studio.models)
    media_type = negotiate(all_lines(request.headers, "accept"), formats(wanted.n))
    if wanted.seed is not None and media_type != events.MEDIA_TYPE:
        return await recall(studio, request, order, media_type, immutable=False)
    if request.method == "HEAD":
        info = studio.info(order)
        headers = describing(request, order.params, info, media_type)
        streamed = media_type == events.MEDIA_TYPE
        headers |= events.HEADERS if streamed else {"Cache-Control": "no-store"}
        return without_body(headers | {"Content-Type": media_type})
    return await answer(studio, request, order)


@router.api_route("/images/{name}", methods=["GET", "HEAD"], **docs.IMAGE)
async def recall_image(request: Request, name: str) -> Response:
    """The image of an id, drawn again: `{id}.png`, `.webp` or `.jpg`, or what `Accept` asks for."""
    studio = await studio_of(request)
    stem, dot, extension = name.partition(".")
    params = params_of(stem, studio.models)
    if not dot:
        media_type = negotiate(all_lines(request.headers, "accept"), IMAGES)
    elif kind := format_of(extension):
        media_type = kind.media_type
    else:
        allowed = ", ".join(kind.extension for kind in FORMATS)
        raise UnknownImage(f"images cannot be made as {extension[:20]!r}; allowed: {allowed}")
    return await recall(studio, request, Order(params), media_type, immutable=True)
