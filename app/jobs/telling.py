"""What is told of a job while it is drawn, and at its end."""

import base64

import msgspec

from app.engine.results import Moved, Preview, Queued, Update
from app.files.formats import JPEG, encode
from app.jobs.events import JobEvent
from app.jobs.job import Job

PREVIEW_QUALITY = 80  # of a JPEG: a third smaller than at 95, and soft anyway


class QueuedData(msgspec.Struct, frozen=True):
    """The job waits, and `place` others come before it."""

    id: str
    place: int


class ProgressData(msgspec.Struct, frozen=True):
    """It has had so many evaluations of `total`, of all images together; `eta` is in seconds."""

    id: str
    evaluation: int
    total: int
    eta: float


class PreviewData(msgspec.Struct, frozen=True):
    """What an image will be: a small JPEG in base64."""

    id: str
    image: int
    step: int
    steps: int
    data: str
    media_type: str = "image/jpeg"


class EndData(msgspec.Struct, frozen=True):
    """How it ended; `images` are the addresses of its files."""

    id: str
    status: str
    images: tuple[str, ...]
    error: str | None


def image_path(job: Job, index: int) -> str:
    """The path of a file of a job's result, below where the service stands."""
    return f"/jobs/{job.id}/images/{index}"


def queued(job: Job, place: int) -> JobEvent:
    """The event of a job that waits."""
    return JobEvent("queued", QueuedData(job.id, place))


def ended(job: Job) -> JobEvent:
    """The event of a job's end."""
    images = tuple(image_path(job, picture.index) for picture in job.results)
    return JobEvent(job.status, EndData(job.id, job.status, images, job.error), final=True)


def update(job: Job, news: Update) -> JobEvent:
    """The event of what the engine says of a job."""
    if isinstance(news, Queued):
        return queued(job, news.position)
    if isinstance(news, Moved):
        left = round(news.left, 3)
        return JobEvent("progress", ProgressData(job.id, news.step, news.steps, left))
    return JobEvent("preview", _preview(job, news))


def _preview(job: Job, news: Preview) -> PreviewData:
    data = base64.b64encode(encode(news.pixels, JPEG, quality=PREVIEW_QUALITY)).decode()
    return PreviewData(job.id, news.image, news.step, news.steps, data)
