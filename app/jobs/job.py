"""What a job is: a request that was accepted durably, and what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any


class JobStatus(StrEnum):
    """queued -> running -> succeeded | failed | canceled; back to queued when its server ends."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether it is a last one."""
        return self not in (JobStatus.QUEUED, JobStatus.RUNNING)


@dataclass(frozen=True)
class Webhook:
    """Who is to be told of a job: an address, and of which events; of all where there are none."""

    url: str
    events: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One file of a job's result: image `index`, its size in bytes and its SHA-256."""

    index: int
    media_type: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Job:
    """One job as the store has it. Times are UTC.

    `request` is what was asked, in the words of the API that it came by (`dialect`). `work` is what
    the engine takes (`work.Work`, packed): everything that fixes the bytes of the result.
    """

    number: int  # grows with every job
    id: str  # random, and all that is needed to guess at nothing
    owner: str  # `Asker.client`
    model: str
    digest: str  # SHA-256 of the model's checkpoint when it was accepted
    dialect: str
    request: Mapping[str, Any]
    work: bytes
    images: int
    status: JobStatus
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    ended_no: int | None = None  # grows with every end of any job
    error: str | None = None
    told: tuple[str, ...] = ()  # cautions, as that a prompt was cut
    results: tuple[Picture, ...] = ()
    expired: bool = False  # it had results, which are no longer kept
    webhook: Webhook | None = None
    key: str | None = None  # its Idempotency-Key
    fence: int = 0  # grows with each claim; see `claims`
