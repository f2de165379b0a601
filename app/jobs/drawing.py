"""One claimed job, from the engine to its files."""

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from app.engine.client import EngineClient
from app.engine.errors import (
    DeadlineExceeded,
    DeadlineTooShort,
    EngineBusy,
    EngineError,
    EngineUnavailable,
)
from app.engine.job import MAX_TIMEOUT
from app.engine.model_info import ModelInfo
from app.engine.pending import Watch
from app.engine.results import Result
from app.files.formats import PNG, format_of
from app.generation import Generation
from app.jobs.job import Job
from app.jobs.work import unpack

_ROOM_SECONDS = 1.0  # between two tries, at most, while the engine has no room


class NotNow(Exception):
    """It cannot be drawn here and now, and is to wait again."""


@dataclass(frozen=True)
class Drawn:
    """What came of a job: files, or an error; and cautions, as that a prompt was cut."""

    error: str | None = None
    media_type: str = PNG.media_type
    files: tuple[bytes, ...] = ()
    told: tuple[str, ...] = ()


async def draw(engine: EngineClient, job: Job, watch: Watch) -> Drawn:
    """Draw a job. Cancel the task and its slots are free.

    Raises:
        NotNow: its model was never loaded, or is another one now; or the engine stops.
    """
    try:
        work = unpack(job.work)
    except msgspec.MsgspecError as error:
        return Drawn(f"another version of the server stored it: {error}")
    try:
        generation = Generation(engine, work.request, _model(engine, job), work.marked)
        result = await _result(generation, job, watch)
    except EngineUnavailable as error:
        raise NotNow from error
    except EngineError as error:
        return Drawn(str(error))
    kind = format_of(work.media_type) or PNG
    files = await generation.files(result, kind, work.quality)
    return Drawn(None, kind.media_type, tuple(files), generation.cautions(result))


def too_late(timeout: float) -> str:
    """The error of a job that had so many seconds."""
    return f"not done within {timeout:g} seconds"


def seconds_left(job: Job, timeout: float | None) -> float:
    """Seconds within which a job is to be done that had `timeout` when it was accepted."""
    if timeout is None:
        return MAX_TIMEOUT
    return timeout - (datetime.now(UTC) - job.created).total_seconds()


def _model(engine: EngineClient, job: Job) -> ModelInfo:
    """The model of a job. It may be another one, or be gone, each time that something was awaited.

    Raises:
        NotNow: the one that the job was accepted for is not there.
    """
    info = engine.models.get(job.model)
    if info is None or info.digest != job.digest:
        raise NotNow
    return info


async def _result(generation: Generation, job: Job, watch: Watch) -> Result:
    """The images, once the engine has room for them; a deadline counts from the acceptance."""
    timeout = generation.request.timeout
    late = DeadlineExceeded(too_late(timeout or MAX_TIMEOUT))
    while True:
        left = seconds_left(job, timeout)
        if left <= 0:
            raise late
        request = replace(generation.request, timeout=left)
        try:
            return await replace(generation, request=request).draw(watch)
        except EngineBusy as error:
            await asyncio.sleep(min(error.retry_after, _ROOM_SECONDS))
            _model(generation.engine, job)
        except (DeadlineExceeded, DeadlineTooShort) as error:
            raise late from error
