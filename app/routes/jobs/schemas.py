"""Jobs as the API tells them."""

from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, Field

from app.jobs.job import Job, JobStatus
from app.jobs.service import JobService
from app.jobs.store import Place
from app.jobs.telling import image_path
from app.jobs.work import Work, work_of
from app.schemas.responses import Parameters

_OTHER_VERSION = "Null where another version of the server stored the job."


class JobImage(BaseModel):
    """One file of a result."""

    url: str = Field(description="Address of the file: `/jobs/{id}/images/{k}`.")
    seed: int | None = Field(description=_OTHER_VERSION)
    id: str | None = Field(
        description="Of `/images/{id}.png`, which draws the image again when the file is no longer "
        "kept. Null if the prompts are too long for an address, or another version of the server "
        "stored the job."
    )
    media_type: str
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Of the file; its entity tag, too.")


class JobResult(BaseModel):
    """What a job drew."""

    images: list[JobImage] = Field(description="In the order of their seeds.")
    parameters: Parameters | None = Field(
        description=f"What was used: send it again and get the same. {_OTHER_VERSION}"
    )
    warnings: list[str] = Field(description="As in the header `Warning` of other answers.")

    @classmethod
    def of(cls, job: Job, work: Work | None, root: str) -> Self | None:
        """What is told of a job's files; None where it has none."""
        if not job.results:
            return None
        images = [
            JobImage(
                url=root + image_path(job, picture.index),
                seed=work and work.request.params.seed_of(picture.index),
                id=work and work.image_id(picture.index, job.digest),
                media_type=picture.media_type,
                size=picture.size,
                sha256=picture.sha256,
            )
            for picture in job.results
        ]
        parameters = None
        if work and work.own_size is not None:
            parameters = Parameters.named(work.request.params, work.class_name)
        return cls(images=images, parameters=parameters, warnings=list(job.told))


class CallOut(BaseModel):
    """What came of telling a webhook of one event."""

    event: str
    state: str = Field(description="`waiting`, `delivered` or `failed`.")
    attempts: int
    status: int | None = Field(description="Of the receiver's last answer.")
    error: str | None = Field(description="Why the last attempt failed.")
    due: AwareDatetime | None = Field(description="When it is tried next, while it waits.")


class JobWebhook(BaseModel):
    """Who is told of a job."""

    url: str
    events: list[str]
    calls: list[CallOut] = Field([], description="In `GET /jobs/{id}`: what was told so far.")


class JobOut(BaseModel):
    """A job."""

    id: str
    status: JobStatus
    model: str
    seed: int | None = Field(
        description=f"Image k has seed + k; chosen when the job was accepted. {_OTHER_VERSION}"
    )
    queue_position: int | None = Field(description="How many jobs come before it, while it waits.")
    progress: float = Field(description="The part of its evaluations that is made, 0 to 1.")
    eta: float | None = Field(description="Estimated seconds until its end, if known.")
    created_at: AwareDatetime
    started_at: AwareDatetime | None = Field(description="When a server took it up first.")
    ended_at: AwareDatetime | None
    result: JobResult | None = Field(description="Null until it has succeeded.")
    expired: bool = Field(description="Whether it had a result, which is no longer kept.")
    error: str | None = Field(description="Why it failed.")
    request: dict[str, Any] = Field(description="What was asked.")
    webhook: JobWebhook | None

    @classmethod
    def of(cls, job: Job, place: Place | None, service: JobService, root: str) -> Self:
        """A job, its place in the queue if it was asked for, and where the service stands."""
        work = work_of(job.work)
        moved, hook = service.moved(job), job.webhook
        progress = moved.step / moved.steps if moved else 0.0
        waits = job.status is JobStatus.QUEUED and place is not None
        return cls(
            id=job.id,
            status=job.status,
            model=job.model,
            seed=work and work.request.params.seed,
            queue_position=place.position if waits and place else None,
            progress=1.0 if job.status is JobStatus.SUCCEEDED else round(progress, 4),
            eta=service.eta(job, place),
            created_at=job.created,
            started_at=job.started,
            ended_at=job.ended,
            result=JobResult.of(job, work, root),
            expired=job.expired,
            error=job.error,
            request=dict(job.request),
            webhook=hook and JobWebhook(url=hook.url, events=list(hook.events)),
        )


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobOut]
    next: str | None = Field(description="Address of the next page; null on the last one.")
