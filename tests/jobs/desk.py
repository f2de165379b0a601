"""Webhooks over a database of their own, and jobs that they are to tell of."""

import asyncio
import base64
import ipaddress
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sql

from app.http.addresses import Address, Allowance
from app.jobs.database import Database
from app.jobs.job import Job, JobStatus, Webhook
from app.jobs.tables import WEBHOOK_DELIVERIES
from app.jobs.webhooks.asking import NATIVE
from app.jobs.webhooks.calling import Resolve
from app.jobs.webhooks.outbox import DeliveryStatus
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.service import Options, Webhooks

SECRETS = ["whsec_" + base64.b64encode(bytes([k]) * 32).decode() for k in (1, 2)]
LOOPBACK = Allowance.of(["127.0.0.1"])
QUICK = Options(
    secrets=SECRETS, allowance=LOOPBACK, schedule=Schedule(attempts=4, first=0.001), seconds=5
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job_of(url: str, job_id: str = "job", owner: str = "me", **more: Any) -> Job:
    job = Job(
        number=1,
        id=job_id,
        owner=owner,
        model="tiny",
        digest="",
        dialect="native",
        request={},
        work=b"",
        images=1,
        status=JobStatus.SUCCEEDED,
        created=NOW,
        webhook=Webhook(url, NATIVE.default),
    )
    return replace(job, **more)


def body(job: Job) -> str:
    return json.dumps({"id": job.id, "status": job.status, "prompt": "Öl 🎨"})


@dataclass
class Desk:
    """Webhooks over a database in a file, that outlives them."""

    webhooks: Webhooks
    database: Database

    async def note(self, *jobs: Job) -> None:
        def noted(connection: sql.Connection) -> None:
            for job in jobs:
                self.webhooks.note(connection, job)

        await self.database.run(noted)

    async def state(self, job_id: str = "job") -> DeliveryStatus:
        (found,) = await self.webhooks.of(job_id)
        return found

    async def ends(self, job_id: str = "job") -> DeliveryStatus:
        while (found := await self.state(job_id)).state == "waiting":
            await asyncio.sleep(0.005)
        return found


@dataclass
class Lookup:
    """A resolver with an answer for each time; it notes what it was asked."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return [ipaddress.ip_address(each) for each in answer]


@asynccontextmanager
async def desk(
    folder: Path, options: Options = QUICK, resolve: Resolve | None = None
) -> AsyncIterator[Desk]:
    database = Database(f"sqlite:///{folder / 'jobs.db'}")
    # These jobs are not in the store, as where they are forgotten: what was noted is what is sent.
    webhooks = Webhooks(
        database, options, lambda _, job: body(job), resolve, sent=lambda *_: "not this"
    )
    webhooks._ended = Awake()
    await webhooks.start()
    try:
        yield Desk(webhooks, database)
    finally:
        await webhooks.close()
        await database.close()


class Awake(asyncio.Event):
    """Lets the next look for calls come at once, so that tests need not wait for a second."""

    async def wait(self) -> Any:
        await asyncio.sleep(0.005)


async def due_now(at: Desk) -> None:
    earlier = datetime.now(UTC) - timedelta(seconds=1)
    await at.database.run(lambda c: c.execute(sql.update(WEBHOOK_DELIVERIES).values(due=earlier)))
