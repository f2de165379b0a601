"""What the native routes answer with: images in the format asked for, and the headers beside them.

The same parameters give the same body in every format, so a body has a name (an entity tag) before
it is made. Only headers hold what differs from time to time, such as the seconds it took.
"""

import base64
import io
import re
import time
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import Request, Response

from app.engine.errors import EngineError
from app.engine.job import SamplingParams
from app.engine.results import Moved, Preview, Queued, Result
from app.errors import Problem, fault_of
from app.files.formats import FORMATS, JPEG, PNG, encode
from app.files.ids import entity_tag, image_id
from app.files.parameters import file_stem
from app.generation import Generation
from app.http import sse
from app.http.body import JSON
from app.http.negotiation import all_lines, negotiate
from app.http.sse import EventStream, event
from app.http.warnings import warn
from app.schemas.responses import (
    CompletedEvent,
    GenerateResponse,
    ImageOut,
    Parameters,
    PreviewEvent,
    ProgressEvent,
    QueuedEvent,
    Timing,
)

ZIP = "application/zip"
IMAGES = tuple(kind.media_type for kind in FORMATS)
_EXTENSIONS = {kind.media_type: kind.extension for kind in FORMATS} | {JSON: "json", ZIP: "zip"}
_PREVIEW_QUALITY = 80  # of a JPEG: a third smaller than at 95, and soft anyway
_LONGEST_JSON = 1536  # bytes of the parameters in a header, for the reason of `ids.MAX_ID`
_KEPT = "private, max-age=31536000, immutable"


def formats(n: int) -> tuple[str, ...]:
    """The media types that hold n images, the preferred one first."""
    return (*IMAGES, JSON, ZIP, sse.MEDIA_TYPE) if n == 1 else (JSON, ZIP, sse.MEDIA_TYPE)


def preferred(request: Request, n: int) -> str:
    """The format that the client likes best for n images; raises `NotAcceptable`."""
    return negotiate(all_lines(request.headers, "accept"), formats(n))


def file_type(request: Request) -> str:
    """The format of a job's files: what the client likes best, PNG where that is no picture."""
    liked = preferred(request, 1)
    return liked if liked in IMAGES else PNG.media_type


async def answer(generation: Generation, request: Request, media_type: str) -> Response:
    """Draw, and answer in a format."""
    headers = describing(generation, request, media_type)
    if media_type == sse.MEDIA_TYPE:
        return await EventStream.begin(generation.streamed(_narrate(generation, request)), headers)
    headers["Cache-Control"] = "no-store"
    return await _drawn(generation, request, media_type, headers)


async def recall(
    generation: Generation, request: Request, media_type: str, *, immutable: bool
) -> Response:
    """Answer for what can be had again: 304 where the client has it, no body to a HEAD.

    Neither draws anything. `immutable`: whether the address always means the same images.
    """
    params, info = generation.params, generation.info
    tag = entity_tag(params, info, media_type, marked=generation.marked)
    headers = describing(generation, request, media_type)
    keep = immutable and info.exact
    headers |= {"ETag": tag, "Cache-Control": _KEPT if keep else "private, no-cache"}
    if _matches(all_lines(request.headers, "if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return without_body(headers | {"Content-Type": media_type})
    return await _drawn(generation, request, media_type, headers)


def without_body(headers: dict[str, str]) -> Response:
    """The answer to a HEAD: how long the body would be is not known, and not said."""
    response = Response(headers=headers)
    del response.headers["content-length"]
    return response


def describing(generation: Generation, request: Request, media_type: str) -> dict[str, str]:
    """Headers that say what a body holds."""
    params, info = generation.params, generation.info
    first = image_id(params, 0, info)
    told = _ascii(Parameters.of(params, info).model_dump_json())
    headers = {"Vary": "Accept", "X-Seed": str(params.seed)}
    long = {
        "X-Image-Id": first,
        "X-Generation-Parameters": told if len(told) <= _LONGEST_JSON else None,
    }
    headers |= {name: value for name, value in long.items() if value is not None}
    if left_out := [name for name, value in long.items() if value is None]:
        warn(headers, [f"the prompts are too long for {' and '.join(left_out)}"])
    if media_type in _EXTENSIONS:
        file = f"{file_stem(params, 0, info)}.{_EXTENSIONS[media_type]}"
        headers["Content-Disposition"] = f'inline; filename="{file}"'
    if media_type in IMAGES and first is not None:
        headers["Content-Location"] = image_path(request, first, media_type)
    return headers


def image_path(request: Request, name: str, media_type: str = PNG.media_type) -> str:
    """Where the image of an id can be had again, as a file of some type."""
    root = request.scope.get("root_path", "")
    return f"{root}/images/{name}.{_EXTENSIONS[media_type]}"  # url_for takes a millisecond


def _ascii(text: str) -> str:
    """JSON as a header carries it."""
    if text.isascii() and text.isprintable():
        return text
    return re.sub(r"[^ -~]", lambda found: _escaped(found[0]), text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[k]:02x}{units[k + 1]:02x}" for k in range(0, len(units), 2))


def _matches(given: str, tag: str) -> bool:
    """Whether If-None-Match names a tag; weakly, RFC 9110, 13.1.2. A tag is quoted, so is found."""
    return given.strip() == "*" or tag.removeprefix("W/") in given


async def _drawn(
    generation: Generation, request: Request, media_type: str, headers: dict[str, str]
) -> Response:
    result = await generation.draw()
    began = time.perf_counter()
    kind = next((kind for kind in FORMATS if kind.media_type == media_type), PNG)
    files = await generation.files(result, kind)
    if media_type == JSON:
        content = _response(generation, request, files).model_dump_json().encode()
    else:
        content = _zip(files, generation.params) if media_type == ZIP else files[0]
    timing = Timing.of(result, time.perf_counter() - began)
    warn(headers, generation.cautions(result))
    headers["Server-Timing"] = ", ".join(
        f"{name};dur={seconds * 1000:.1f}" for name, seconds in timing
    )
    return Response(content, media_type=media_type, headers=headers)


def _zip(files: list[bytes], params: SamplingParams) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as folder:
        for k, file in enumerate(files):
            entry = zipfile.ZipInfo(f"{params.seed_of(k)}.png")  # dated 1980: same bytes again
            folder.writestr(entry, file)
    return archive.getvalue()


def _response(generation: Generation, request: Request, files: list[bytes]) -> GenerateResponse:
    params, info = generation.params, generation.info
    names = [image_id(params, k, info) for k in range(params.n)]
    images = [
        ImageOut(
            seed=params.seed_of(k),
            id=name,
            url=name and image_path(request, name),
            data=base64.b64encode(file).decode(),
        )
        for k, (name, file) in enumerate(zip(names, files, strict=True))
    ]
    return GenerateResponse(**Parameters.of(params, info).model_dump(), images=images)


async def _narrate(generation: Generation, request: Request) -> AsyncGenerator[bytes, None]:
    """A request as events: what becomes of it, in step order, and one end."""
    begun = False
    try:
        async with aclosing(generation.follow()) as updates:
            async for news in updates:
                said = b""
                for update in news:
                    if isinstance(update, Queued):
                        said += event("queued", QueuedEvent.of(update))
                    elif isinstance(update, Moved):
                        said += event("progress", ProgressEvent.of(update))
                    elif isinstance(update, Preview):
                        said += event("preview", _preview(update))
                    else:
                        completed = await _completed(generation, request, update)
                        said += event("completed", completed)
                yield said or sse.KEEP_ALIVE
                begun = True
    except EngineError as error:
        if not begun:
            raise
        yield event("error", Problem.of(fault_of(error)))


async def _completed(generation: Generation, request: Request, result: Result) -> CompletedEvent:
    began = time.perf_counter()
    files = await generation.files(result)
    timing = Timing.of(result, time.perf_counter() - began)
    response = _response(generation, request, files)
    told = list(generation.cautions(result))
    return CompletedEvent(**response.model_dump(), timing=timing, warnings=told)


def _preview(update: Preview) -> PreviewEvent:
    data = base64.b64encode(encode(update.pixels, JPEG, quality=_PREVIEW_QUALITY)).decode()
    return PreviewEvent(image=update.image, step=update.step, steps=update.steps, data=data)
