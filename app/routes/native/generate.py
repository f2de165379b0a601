"""/generate and /images: the native API."""

from collections.abc import Awaitable, Mapping
from typing import Any

from fastapi import Request, Response

from app.dependencies import early_studio, jobs_of, studio_of
from app.errors import InvalidRequest, UnknownImage
from app.files.formats import FORMATS, format_of
from app.files.ids import params_of
from app.http import sse
from app.http.body import read_body, read_query
from app.http.idempotency import fingerprint, key_of
from app.http.negotiation import all_lines, negotiate
from app.http.preferences import RESPOND_ASYNC, wants_job
from app.http.routing import Router
from app.jobs.job import Webhook
from app.jobs.keys import Keyed
from app.jobs.service import Asked
from app.jobs.webhooks.asking import NATIVE
from app.routes.jobs.calls import webhook_of
from app.routes.jobs.jobs import begin
from app.routes.jobs.once import once
from app.routes.native import docs, huggingface
from app.routes.native.answers import (
    IMAGES,
    answer,
    describing,
    file_type,
    preferred,
    recall,
    without_body,
)
from app.schemas.requests import GenerateRequest

router = Router(tags=["generate"])

_FOR_JOBS = "only jobs have a webhook; ask for one by the header Prefer: respond-async"


@router.post("/generate", **docs.GENERATE)
async def generate(request: Request) -> Response:
    """Draw `n` images of a prompt or a class. The same request gives the same pixels every time.

    A body with `inputs` is read as Hugging Face's clients write it.
    """
    studio = early_studio(request)
    values, text = await read_body(request)
    hook = _webhook(request, values)
    drawn = {name: values[name] for name in values if name not in NATIVE.fields}
    if "inputs" in drawn and not text:
        studio = await studio.opened(model=drawn.get("model"))
        asked = huggingface.to_request(drawn, studio)
    else:
        wanted = GenerateRequest.parse(drawn, strict=not text, models=studio.models)
        studio = await studio.opened(wanted.timeout, wanted.model)
        asked = wanted.to_request(studio.models, studio.asker, studio.permit.limits)
    key = key_of(request)
    if wants_job(request):
        kind = file_type(request)
        same = fingerprint(values, kind, RESPOND_ASYNC)
        keyed = None if key is None else Keyed(studio.asker.client, key, same)
        job = Asked(studio.job(asked), kind, drawn, webhook=hook)
        return await begin(await jobs_of(request), job, keyed, request)
    media_type = preferred(request, asked.params.n)

    def drawing() -> Awaitable[Response]:
        return answer(studio.generation(asked), request, media_type)

    if key is None:
        return await drawing()
    keyed = Keyed(studio.asker.client, key, fingerprint(values, media_type))
    keys = (await jobs_of(request)).keys
    return await once(keys, keyed, drawing)


def _webhook(request: Request, values: Mapping[str, Any]) -> Webhook | None:
    """The webhook that a body names; raises `InvalidRequest` if there is no job to tell it of."""
    if wants_job(request):
        return webhook_of(request, values, NATIVE)
    named = [name for name in NATIVE.fields if values.get(name) not in (None, "", [])]
    if named:
        raise InvalidRequest(dict.fromkeys(named, _FOR_JOBS))
    return None


@router.api_route("/generate", methods=["GET", "HEAD"], **docs.GENERATE_BY_QUERY)
async def generate_by_query(request: Request) -> Response:
    """As POST, from a query. With a seed, a repeated request can get 304: see `ETag`.

    What it means may change with the server's default model; `Content-Location` does not.
    """
    studio = early_studio(request)
    values = read_query(request)
    wanted = GenerateRequest.parse(values, strict=False, models=studio.models)
    studio = await studio.opened(wanted.timeout, wanted.model)
    asked = wanted.to_request(studio.models, studio.asker, studio.permit.limits)
    generation = studio.generation(asked)
    media_type = preferred(request, wanted.n)
    streamed = media_type == sse.MEDIA_TYPE
    if wanted.seed is not None and not streamed:
        return await recall(generation, request, media_type, immutable=False)
    if request.method == "HEAD":
        headers = describing(generation, request, media_type)
        headers |= sse.HEADERS if streamed else {"Cache-Control": "no-store"}
        return without_body(headers | {"Content-Type": media_type})
    return await answer(generation, request, media_type)


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
    generation = studio.generation(studio.request(params))
    return await recall(generation, request, media_type, immutable=True)
