"""Predictions as Replicate's API tells them.

https://replicate.com/docs/reference/http#predictions.get
https://replicate.com/docs/topics/predictions/lifecycle
"""

import base64
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field
from sqlalchemy.engine import Connection

from app.engine.results import Moved
from app.errors import ResultExpired
from app.jobs.drawing import too_late
from app.jobs.job import Job, JobStatus
from app.jobs.results import stored
from app.jobs.service import JobService
from app.jobs.telling import image_path
from app.jobs.work import request_of

DIALECT = "replicate"
Status = Literal["starting", "processing", "succeeded", "failed", "canceled"]
_STATUS: dict[JobStatus, Status] = {
    JobStatus.QUEUED: "starting",
    JobStatus.RUNNING: "processing",
    JobStatus.SUCCEEDED: "succeeded",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELED: "canceled",
}
_MOST_IN_CALL = 1 << 20  # bytes of files that a webhook is sent
_BAR = 10  # characters


class PredictionUrls(BaseModel):
    """Where to ask for a prediction again, and where to cancel it."""

    get: str
    cancel: str


class Prediction(BaseModel):
    """Images, and how they came to be."""

    id: str = Field(description="Also of the job that it is: `/jobs/{id}`.")
    model: str = Field(description="The model as the request named it.", examples=["local/digits"])
    version: str = Field(description="SHA-256 of the checkpoint.")
    input: dict[str, Any] = Field(description="The input as it was given, without ignored fields.")
    output: list[str] | None = Field(
        description="Data URIs, in the order of their seeds; in lists, addresses of the files. "
        "Null until it has succeeded, and when the files are no longer kept."
    )
    data_removed: bool = Field(description="Whether it had an output, which is no longer kept.")
    status: Status = Field(
        description="`canceled` also where `Cancel-After` was over before its end."
    )
    error: str | None = Field(description="Why there is no output.")
    logs: str = Field(description="How far it is; that a prompt was cut, if one was.")
    metrics: dict[str, float] = Field(
        description="Seconds, once it has ended: `predict_time` from `started_at` and `total_time` "
        "from `created_at`."
    )
    created_at: AwareDatetime
    started_at: AwareDatetime | None = Field(description="When a server took it up first.")
    completed_at: AwareDatetime | None
    urls: PredictionUrls

    @classmethod
    def of(
        cls,
        job: Job,
        base: str,
        files: Sequence[bytes | str] | None = None,
        *,
        removed: bool = False,
        moved: Moved | None = None,
    ) -> Self:
        """A job of this dialect, of a server that stands at `base`.

        Args:
            files: its output, or addresses of that; None: the addresses here.
            removed: the output is not there, though the store does not know.
            moved: how far it is, if it is drawn here.
        """
        base = base.rstrip("/")
        here = f"{base}/v1/predictions/{job.id}"
        removed = removed or job.expired
        addresses = [base + image_path(job, picture.index) for picture in job.results]
        output = addresses if files is None else _uris(job, files)
        return cls(
            id=job.id,
            model=job.request["model"],
            version=job.digest,
            input=job.request["input"],
            output=output if output and not removed else None,
            data_removed=removed,
            status="canceled" if _is_late(job) else _STATUS[job.status],
            error=job.error,
            logs="\n".join(_logs(job, moved, removed=removed)),
            metrics=_metrics(job),
            created_at=job.created,
            started_at=job.started,
            completed_at=job.ended,
            urls=PredictionUrls(get=here, cancel=f"{here}/cancel"),
        )


class Predictions(BaseModel):
    """Predictions, the newest first."""

    previous: str | None = Field(description="Address of the page with newer ones, if any.")
    next: str | None = Field(description="Address of the page with older ones, if any.")
    results: list[Prediction]


async def told(service: JobService, job: Job, base: str) -> Prediction:
    """A prediction with its output; raises `StoreUnavailable`."""
    files: list[bytes | str] = []
    removed = False
    try:
        for picture in job.results:
            files.append((await service.results.read(job.owner, job.id, picture.index))[1])
    except ResultExpired:
        removed = True
    return Prediction.of(job, base, files, removed=removed, moved=service.moved(job))


def noted_body(job: Job) -> str:
    """What a webhook is told, with addresses in place of files."""
    return Prediction.of(job, job.request["base_url"]).model_dump_json()


def call_body(connection: Connection, job: Job) -> str:
    """What a webhook is told, with files; addresses of those of many bytes, or not in the store."""
    files = stored(connection, job, _MOST_IN_CALL)
    return Prediction.of(job, job.request["base_url"], files).model_dump_json()


def _uris(job: Job, files: Sequence[bytes | str]) -> list[str]:
    """Files as data URIs; the addresses of others as they are."""
    kinds = (picture.media_type for picture in job.results)
    return [
        file if isinstance(file, str) else f"data:{kind};base64,{base64.b64encode(file).decode()}"
        for kind, file in zip(kinds, files, strict=False)
    ]


def _is_late(job: Job) -> bool:
    """Whether its lifetime was over: the store has no other sign of that than the error.

    Replicate says `aborted` where it had not begun, which its Python client 1.0 does not know.
    """
    request = request_of(job.work)
    timeout = request.timeout if request else None
    return job.status is JobStatus.FAILED and timeout is not None and job.error == too_late(timeout)


def _logs(job: Job, moved: Moved | None, *, removed: bool) -> list[str]:
    lines = list(job.told)
    if moved and job.status is JobStatus.RUNNING:  # as tqdm writes it, for clients that read it
        done = moved.step / moved.steps
        bar = ("#" * int(done * _BAR)).ljust(_BAR)
        lines.append(f"{done:4.0%}|{bar}| {moved.step}/{moved.steps}")
    if removed:
        lines.append("the output is no longer kept")
    return lines


def _metrics(job: Job) -> dict[str, float]:
    begins = {"predict_time": job.started, "total_time": job.created}
    return {
        name: (job.ended - begun).total_seconds()
        for name, begun in begins.items()
        if job.ended and begun
    }
