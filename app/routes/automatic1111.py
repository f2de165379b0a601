"""AUTOMATIC1111's web UI API, as far as it means something here.

What it asks and stops without naming it, `/progress` and `/interrupt`, is about the requests that
came from the same address: the web UI had one user, and this server has many.
"""

import asyncio
import base64
import binascii
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from app import docs
from app.dependencies import StudioDep
from app.drawing import Order, Studio
from app.engine.job import Moved, Preview, Result
from app.errors import Fault, InvalidRequest, enveloped
from app.images import PNG, encode, open_image, read_description
from app.reading import JSON, read_body
from app.routes.automatic1111_schemas import (
    SAMPLER,
    ErrorBody,
    ModelItem,
    Options,
    PngInfoRequest,
    PngInfoResponse,
    Progress,
    ProgressState,
    SamplerItem,
    SchedulerItem,
    Txt2ImgRequest,
    Txt2ImgResponse,
    title,
)

_NOTHING: dict[str, Any] = {
    "upscalers": [],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "sd-modules": [],
    "loras": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "script-info": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
    "memory": {"ram": {}, "cuda": {}},
}


@dataclass(eq=False)
class _Sitting:
    """A request under way, and whose it is."""

    address: str
    work: "asyncio.Task[Result]"
    began: datetime = field(default_factory=datetime.now)
    moved: Moved | None = None
    shown: Preview | None = None
    interrupted: bool = False


def _envelope(fault: Fault) -> Response:
    body = ErrorBody.of(fault).model_dump()
    return JSONResponse(body, fault.status, dict(fault.headers))


_ERRORS = {
    400: "The body cannot be read.",
    404: "No such model.",
    413: "The body is too large.",
    415: "The body is of a type that is not read.",
    422: "A field is wrong.",
    429: "The queue is full, or too long for the deadline; see `Retry-After`.",
    500: "The request failed on the way.",
    503: "The models are not loaded.",
    504: "Not done in time.",
}
_BODY, _DRAWN = (400, 413, 415, 422), (404, 429, 500, 503, 504)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {
        status: {
            "model": ErrorBody,
            "description": _ERRORS[status],
            "headers": docs.headers("Retry-After") if status == 429 else docs.headers(),
        }
        for status in sorted(statuses)
    }


def _body(schema: dict[str, Any], **example: object) -> dict[str, Any]:
    content = {JSON: {"schema": schema, **({"example": example} if example else {})}}
    return {"requestBody": {"required": True, "content": content}}


router = APIRouter(prefix="/sdapi/v1", tags=["automatic1111"], route_class=enveloped(_envelope))


@router.post(
    "/txt2img",
    operation_id="automatic1111Txt2Img",
    summary="Draw images, as the web UI's clients ask for them",
    response_model=Txt2ImgResponse,
    responses=_errors(*_BODY, *_DRAWN),
    openapi_extra=_body(Txt2ImgRequest.model_json_schema(), prompt="7", seed=1, steps=20),
)
async def txt2img(request: Request, studio: StudioDep) -> Response:
    """Draw `batch_size` times `n_iter` images of the class that the prompt names, with DDIM."""
    values, _ = await read_body(request)
    wanted = Txt2ImgRequest.parse(values)
    order = wanted.to_order(studio.models)
    result = await _drawn(studio, order, request)
    files: list[bytes] = []
    if result is not None and wanted.send_images is not False:
        files = await studio.encode(order, result)
    texts = [base64.b64encode(file).decode() for file in files]
    answer = Txt2ImgResponse.of(wanted, order.params, studio.info(order), texts)
    headers = {"X-Seed": str(order.params.seed), "Cache-Control": "no-store"}
    return Response(answer.model_dump_json(), headers=headers, media_type=JSON)


@router.get(
    "/progress",
    operation_id="automatic1111Progress",
    summary="How far the newest request of this address is",
    responses=docs.WRONG,
)
async def progress(request: Request, skip_current_image: str = "") -> Progress:
    """All zeros when nothing is under way. `skip_current_image=true` leaves the preview out."""
    sittings = _sittings(request)
    if not sittings:
        return Progress()
    newest = sittings[-1]
    step, steps = (newest.moved.step, newest.moved.steps) if newest.moved else (0, 0)
    state = ProgressState(
        interrupted=newest.interrupted,
        job=f"task({id(newest)})",
        job_count=len(sittings),
        job_timestamp=f"{newest.began:%Y%m%d%H%M%S}",
        sampling_step=step,
        sampling_steps=steps,
    )
    image = None
    if newest.shown and skip_current_image.lower() not in ("true", "1", "yes"):
        image = base64.b64encode(encode(newest.shown.pixels, PNG)).decode()
    return Progress(
        progress=step / steps if steps else 0.01,  # 0 is idle
        eta_relative=newest.moved.left if newest.moved else 0.0,
        state=state,
        current_image=image,
    )


@router.post(
    "/interrupt",
    operation_id="automatic1111Interrupt",
    summary="End the requests of this address",
    responses=docs.WRONG,
)
@router.post(
    "/skip",
    operation_id="automatic1111Skip",
    summary="End the requests of this address",
    responses=docs.WRONG,
)
async def interrupt(request: Request) -> dict[str, Any]:
    """They are answered, without images."""
    for sitting in _sittings(request):
        sitting.interrupted = True
        sitting.work.cancel()
    return {}


@router.post(
    "/png-info",
    operation_id="automatic1111PngInfo",
    summary="How a picture was made, by its own words",
    response_model=PngInfoResponse,
    responses=_errors(*_BODY, 500),
    openapi_extra=_body(PngInfoRequest.model_json_schema()),
)
async def png_info(request: Request) -> PngInfoResponse:
    """Empty where the picture says nothing."""
    values, _ = await read_body(request)
    text = PngInfoRequest.parse(values).image
    try:
        content = base64.b64decode(text.partition("base64,")[2] or text, validate=True)
        parameters = (await asyncio.to_thread(open_image, content)).parameters or ""
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest({"image": str(error)}) from error
    items = {"parameters": parameters} if parameters else {}
    prompt, pairs = read_description(parameters) if parameters else ("", {})
    told = {"Prompt": prompt, **pairs} if parameters else {}
    return PngInfoResponse(info=parameters, items=items, parameters=told)


@router.get(
    "/options",
    operation_id="automatic1111Options",
    summary="Settings",
    responses=_errors(500, 503) | docs.WRONG,
)
async def options(studio: StudioDep) -> Options:
    """The default model, and the format of files."""
    info = next(iter(studio.models.values()))
    return Options(sd_model_checkpoint=title(info), sd_checkpoint_hash=info.digest)


@router.post(
    "/options",
    operation_id="automatic1111SetOptions",
    summary="Nothing: settings are the server's",
    responses=_errors(*_BODY, 500),
    openapi_extra=_body({"type": "object"}, samples_format="png"),
)
async def set_options(request: Request) -> dict[str, Any]:
    """Taken, so that clients that set their own go on; `override_settings` chooses a model."""
    await read_body(request)
    return {}


@router.post(
    "/refresh-checkpoints",
    operation_id="automatic1111RefreshCheckpoints",
    summary="Nothing: models are loaded at the start",
    responses=docs.WRONG,
)
async def refresh_checkpoints() -> dict[str, Any]:
    """Taken, as clients call it."""
    return {}


@router.get(
    "/sd-models",
    operation_id="automatic1111SdModels",
    summary="What is loaded",
    responses=_errors(500, 503) | docs.WRONG,
)
async def sd_models(studio: StudioDep) -> list[ModelItem]:
    """Every loaded model, the default one first."""
    return [
        ModelItem(
            title=title(info),
            model_name=info.name,
            hash=info.hash,
            sha256=info.digest,
            filename=info.name,
        )
        for info in studio.models.values()
    ]


@router.get(
    "/samplers",
    operation_id="automatic1111Samplers",
    summary="How it is sampled",
    responses=docs.WRONG,
)
async def samplers() -> list[SamplerItem]:
    """DDIM, whatever is asked for."""
    return [SamplerItem(name=SAMPLER, aliases=["ddim"], options={})]


@router.get(
    "/schedulers",
    operation_id="automatic1111Schedulers",
    summary="How steps are spaced",
    responses=docs.WRONG,
)
async def schedulers() -> list[SchedulerItem]:
    """Automatic, whatever is asked for."""
    return [SchedulerItem(name="automatic", label="Automatic")]


def _add_empty(path: str, content: Any) -> None:
    """A list of what there is none of."""
    words = "".join(word.capitalize() for word in path.split("-"))

    async def nothing() -> Any:
        return content

    router.add_api_route(
        f"/{path}",
        nothing,
        operation_id=f"automatic1111{words}",
        summary="What there is none of here",
        responses={200: {"content": {JSON: {"example": content}}}, **docs.WRONG},
    )


for _path, _content in _NOTHING.items():
    _add_empty(_path, _content)


async def _drawn(studio: Studio, order: Order, request: Request) -> Result | None:
    """The result of an order; None where it was interrupted."""
    with _sitting(studio, order, request) as sitting:
        try:
            return await sitting.work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not sitting.interrupted or (task and task.cancelling()):
                raise
            return None


@contextmanager
def _sitting(studio: Studio, order: Order, request: Request) -> Iterator[_Sitting]:
    """An order being drawn, seen by /progress and /interrupt; it ends with this."""

    async def follow() -> Result:
        async with aclosing(studio.follow(order)) as updates:
            async for news in updates:
                for update in news:
                    if isinstance(update, Moved):
                        sitting.moved = update
                    elif isinstance(update, Preview):
                        sitting.shown = update
                    elif isinstance(update, Result):
                        return update
        raise AssertionError("an order that has no end")

    sitting = _Sitting(_address(request), asyncio.create_task(follow()))
    sittings: list[_Sitting] = request.app.state.sittings
    sittings.append(sitting)
    try:
        yield sitting
    finally:
        sittings.remove(sitting)
        sitting.work.cancel()


def _sittings(request: Request) -> list[_Sitting]:
    """The requests of this address, the newest last."""
    address, sittings = _address(request), request.app.state.sittings
    return [sitting for sitting in sittings if sitting.address == address]


def _address(request: Request) -> str:
    return request.client.host if request.client else ""
