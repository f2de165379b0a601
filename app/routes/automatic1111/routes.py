"""AUTOMATIC1111's web UI API, as far as it means something here.

`/progress` and `/interrupt` name no request. They are about the requests with the same key, or from
the same address where there are no keys: the web UI had one user, and this server has many.
"""

import asyncio
import base64
import uuid
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fastapi import Request, Response

from app.access.admission import key_of
from app.dependencies import studio_of
from app.engine.results import Moved, Preview, Result
from app.errors import InvalidRequest
from app.files.formats import PNG, encode
from app.files.parameters import prompts_of, read_description
from app.files.pictures import inspect
from app.generation import Generation
from app.http import vocabulary
from app.http.body import JSON, read_body
from app.http.problems import enveloped
from app.http.routing import Router
from app.http.warnings import warn
from app.routes.automatic1111.errors import BODY, body_of, envelope, errors_of
from app.routes.automatic1111.schemas import (
    PngInfoRequest,
    PngInfoResponse,
    Progress,
    ProgressState,
    Txt2ImgRequest,
    Txt2ImgResponse,
)
from app.schemas.prompts import allowed_prompt, asked_of

_PIXEL = (  # a PNG of one black pixel, for the documentation
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@dataclass(eq=False)
class _Sitting:
    """A request under way, and whose it is."""

    whose: str
    work: "asyncio.Task[Result]"
    job: str = field(default_factory=lambda: f"task({uuid.uuid4().hex})")
    began: datetime = field(default_factory=datetime.now)
    moved: Moved | None = None
    shown: Preview | None = None
    interrupted: bool = False


router = Router(prefix="/sdapi/v1", tags=["automatic1111"], route_class=enveloped(envelope))


@router.post(
    "/txt2img",
    operation_id="automatic1111Txt2Img",
    summary="Draw images, for the web UI's clients",
    response_model=Txt2ImgResponse,
    responses=errors_of(*BODY, *vocabulary.DRAWING_FAILS),
    openapi_extra=body_of(Txt2ImgRequest.model_json_schema(), prompt="7", seed=1, steps=20),
)
async def txt2img(request: Request) -> Response:
    """Draw `batch_size` times `n_iter` images of a prompt, or of the class that it names."""
    studio = await studio_of(request)
    values, _ = await read_body(request)
    wanted = Txt2ImgRequest.parse(values, prompt=allowed_prompt(asked_of(None, studio.models)))
    studio = await studio.opened(model=wanted.model_of(studio))
    generation = studio.generation(wanted.to_request(studio))
    result = await _drawn(generation, request)
    files: list[bytes] = []
    if result is not None and wanted.send_images is not False:
        files = await generation.files(result)
    texts = [base64.b64encode(file).decode() for file in files]
    answer = Txt2ImgResponse.of(wanted, generation.params, generation.info, texts)
    headers = {"X-Seed": str(generation.params.seed), "Cache-Control": "no-store"}
    if result is not None:
        warn(headers, generation.cautions(result))
    return Response(answer.model_dump_json(), headers=headers, media_type=JSON)


@router.get(
    "/progress",
    operation_id="automatic1111Progress",
    summary="Progress of the newest request from this address",
    responses=vocabulary.WRONG,
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
        job=newest.job,
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
    summary="End the requests from this address",
    responses=vocabulary.WRONG,
)
@router.post(
    "/skip",
    operation_id="automatic1111Skip",
    summary="End the requests from this address",
    responses=vocabulary.WRONG,
)
async def interrupt(request: Request) -> dict[str, Any]:
    """The ended requests are answered without images."""
    for sitting in _sittings(request):
        sitting.interrupted = True
        sitting.work.cancel()
    return {}


@router.post(
    "/png-info",
    operation_id="automatic1111PngInfo",
    summary="Read how a picture was made from its metadata",
    response_model=PngInfoResponse,
    responses=errors_of(*BODY, 500),
    openapi_extra=body_of(PngInfoRequest.model_json_schema(), image=_PIXEL),
)
async def png_info(request: Request) -> PngInfoResponse:
    """The answer is empty if the picture has no parameters."""
    values, _ = await read_body(request)
    text = PngInfoRequest.parse(values).image
    readers = request.app.state.readers  # not those that encode: nobody waits for a stranger
    return await asyncio.get_running_loop().run_in_executor(readers, _told, text)


def _told(text: str) -> PngInfoResponse:
    """What a picture in base64 says of itself."""
    try:
        bare = "".join((text.partition("base64,")[2] or text).split())
        parameters = inspect(base64.b64decode(bare, validate=True)).parameters
    except ValueError as error:
        raise InvalidRequest({"image": str(error)}) from error
    if not parameters:
        return PngInfoResponse(info="", items={}, parameters={})
    lines, pairs = read_description(parameters)
    prompt, negative = prompts_of(lines)
    told = {"Prompt": prompt, "Negative prompt": negative, **pairs}
    return PngInfoResponse(info=parameters, items={"parameters": parameters}, parameters=told)


async def _drawn(generation: Generation, request: Request) -> Result | None:
    """The result; None where it was interrupted."""
    with _sitting(generation, request) as sitting:
        try:
            return await sitting.work
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not sitting.interrupted or (task and task.cancelling()):
                raise
            return None


@contextmanager
def _sitting(generation: Generation, request: Request) -> Iterator[_Sitting]:
    """A request being drawn, seen by /progress and /interrupt; it ends with this."""

    async def follow() -> Result:
        async with aclosing(generation.follow()) as updates:
            async for news in updates:
                for update in news:
                    if isinstance(update, Moved):
                        sitting.moved = update
                    elif isinstance(update, Preview):
                        sitting.shown = update
                    elif isinstance(update, Result):
                        return update
        raise AssertionError("a request that has no end")

    sitting = _Sitting(_whose(request), asyncio.create_task(follow()))
    sittings: list[_Sitting] = request.app.state.sittings
    sittings.append(sitting)
    try:
        yield sitting
    finally:
        sittings.remove(sitting)
        sitting.work.cancel()


def _sittings(request: Request) -> list[_Sitting]:
    """The requests of this client, the newest last."""
    whose, sittings = _whose(request), request.app.state.sittings
    return [sitting for sitting in sittings if sitting.whose == whose]


def _whose(request: Request) -> str:
    """The client of a key, or one address: others of its network may not end what it asked for."""
    key = key_of(request.scope)
    return key.client if key else request.client.host if request.client else ""
