"""Jobs as the API tells them."""

from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, Field

from app.jobs.job import Job, JobStatus
from app.jobs.service import JobService
from app.jobs.store import Place
from app.jobs.telling import image_path
from app.jobs.work import request_of


class JobImage(BaseModel):
    """One file of a result."""

    url: str = Field(description="Address of the file: `/jobs/{id}/images/{k}`.")
    seed: int | None
    media_type: str
    size: int = Field(description="Bytes.")
    sha256: str = Field(description="Of the file; its entity tag, too.")


class JobResult(BaseModel):
    """What a job drew."""

    images: list[JobImage] = Field(description="In the order of their seeds.")
    warnings: list[str] = Field(description="As in the header `Warning` of other answers.")


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
        description="Image k has seed + k; chosen when the job was accepted. Null where another "
        "version of the server stored the job."
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
        request = request_of(job.work)
        images = [
            JobImage(
                url=root + image_path(job, picture.index),
                seed=request and request.params.seed_of(picture.index),
                media_type=picture.media_type,
                size=picture.size,
                sha256=picture.sha256,
            )
            for picture in job.results
        ]
        result = JobResult(images=images, warnings=list(job.told)) if images else None
        moved, hook = service.moved(job), job.webhook
        progress = moved.step / moved.steps if moved else 0.0
        waits = job.status is JobStatus.QUEUED and place is not None
        return cls(
            id=job.id,
            status=job.status,
            model=job.model,
            seed=request and request.params.seed,
            queue_position=place.position if waits and place else None,
            progress=1.0 if job.status is JobStatus.SUCCEEDED else round(progress, 4),
            eta=service.eta(job, place),
            created_at=job.created,
            started_at=job.started,
            ended_at=job.ended,
            result=result,
            expired=job.expired,
            error=job.error,
            request=dict(job.request),
            webhook=hook and JobWebhook(url=hook.url, events=list(hook.events)),
        )


class JobList(BaseModel):
    """Jobs, the newest first."""

    jobs: list[JobOut]
    next: str | None = Field(description="Address of the next page; null on the last one.")
