"""Jobs in the database: accepted, asked for, listed and cancelled. `claims` has who draws them."""

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from app.errors import TooManyJobs, UnknownJob
from app.jobs.database import Database
from app.jobs.job import Job, JobStatus, Webhook
from app.jobs.rows import ENDED, SELECT, fetch, next_end, now, owned
from app.jobs.tables import COUNTERS, JOBS

_ACTIVE = (JobStatus.QUEUED, JobStatus.RUNNING)
_FULL_SECONDS = 30  # after which to try again where there is no room

Noted = Callable[[Connection, Job], None]  # called with every start and end, in its transaction


class Place(NamedTuple):
    """What comes before a job that waits: so many jobs, with so many evaluations."""

    position: int
    evaluations: int


@dataclass(frozen=True)
class Room:
    """How many jobs may wait or run, and with how many evaluations: of one client, and of all."""

    jobs: int
    jobs_all: int
    evaluations: int
    evaluations_all: int


@dataclass(frozen=True)
class NewJob:
    """What is to become a job; see `Job`. `timeout`: seconds within which it is to be done."""

    owner: str
    model: str
    digest: str
    dialect: str
    request: Mapping[str, Any]
    work: bytes
    images: int
    evaluations: int
    priority: int
    timeout: float | None = None
    webhook: Webhook | None = None
    key: str | None = None


class JobStore:
    """The jobs. Every method raises `StoreUnavailable` where the database cannot be used."""

    def __init__(self, database: Database, room: Room, noted: Noted | None = None) -> None:
        self.database, self._room = database, room
        self.noted = noted or (lambda _connection, _job: None)

    async def accept(self, new: NewJob) -> tuple[Job, Place]:
        """A job, durably, and what comes before it; raises `TooManyJobs`."""
        return await self.database.run(lambda connection: self.add(connection, new))

    async def get(self, owner: str, job_id: str) -> tuple[Job, Place]:
        """A job of an owner, and what comes before it if it waits; raises `UnknownJob`."""

        def found(connection: Connection) -> tuple[Job, Place]:
            job = _one(connection, owner, job_id)
            return job, _ahead(connection, job)

        return await self.database.run(found)

    async def list(
        self,
        owner: str,
        *,
        limit: int,
        before: str | None = None,
        after: str | None = None,
        statuses: Sequence[JobStatus] = (),
        dialect: str | None = None,
    ) -> Sequence[Job]:
        """Jobs of an owner, the newest first, next to the one with the id `before` or `after`.

        They came before that one, or after it; with neither, they are the newest of all.
        """
        number, statement = JOBS.c.number, SELECT.where(JOBS.c.owner == owner)
        if (told := before or after) is not None:
            cursor = sql.select(number).where(owned(owner, told)).scalar_subquery()
            statement = statement.where(number < cursor if before else number > cursor)
        if statuses:
            statement = statement.where(JOBS.c.status.in_(statuses))
        if dialect is not None:
            statement = statement.where(JOBS.c.dialect == dialect)
        statement = statement.order_by(number if after else number.desc()).limit(limit)
        jobs = await self.database.run(lambda c: fetch(c, statement))
        return jobs[::-1] if after else jobs

    async def ended(self, job_ids: Sequence[str]) -> Sequence[Job]:
        """Those of some jobs, of whichever owner, that have ended."""
        ended = JOBS.c.ended_no.is_not(None)
        statement = SELECT.where(JOBS.c.id.in_(job_ids), ended)
        return await self.database.run(lambda c: fetch(c, statement))

    async def ended_since(self, owner: str, cursor: int, limit: int = 1000) -> Sequence[Job]:
        """The jobs of an owner whose `ended_no` is above the cursor, in the order of their ends."""
        ended = JOBS.c.ended_no
        statement = SELECT.where(JOBS.c.owner == owner, ended > cursor).order_by(ended)
        return await self.database.run(lambda c: fetch(c, statement.limit(limit)))

    async def last_end(self) -> int:
        """The highest `ended_no` there ever was, 0 before the first end."""
        statement = sql.select(COUNTERS.c.value).where(COUNTERS.c.name == ENDED)
        return await self.database.run(lambda c: c.execute(statement).scalar() or 0)

    async def cancel(self, owner: str, job_id: str) -> tuple[Job, bool]:
        """A job that is cancelled if it had not ended, and whether it was; raises `UnknownJob`."""

        def cancelled(connection: Connection) -> tuple[Job, bool]:
            job = _one(connection, owner, job_id)
            ending = (
                sql.update(JOBS)
                .where(JOBS.c.number == job.number, JOBS.c.status.in_(_ACTIVE))
                .values(status=JobStatus.CANCELED, server=None, lease=None)
            )
            if not connection.execute(ending).rowcount:
                return _one(connection, owner, job_id), False
            self.end(connection, job.number)
            return _one(connection, owner, job_id), True

        return await self.database.run(cancelled)

    async def counts(self) -> dict[str, int]:
        """How many jobs there are of each status."""
        statement = sql.select(JOBS.c.status, sql.func.count()).group_by(JOBS.c.status)
        return await self.database.run(lambda c: dict(c.execute(statement).all()))

    def end(self, connection: Connection, number: int) -> Job:
        """Number and date an end, and note it for those who are to be told; part of its change."""
        ended = {"ended": now(connection), "ended_no": next_end(connection)}
        connection.execute(sql.update(JOBS).where(JOBS.c.number == number).values(ended))
        (job,) = fetch(connection, SELECT.where(JOBS.c.number == number))
        self.noted(connection, job)
        return job

    def add(self, connection: Connection, new: NewJob) -> tuple[Job, Place]:
        """A job and what comes before it, as part of a transaction; raises `TooManyJobs`."""
        self._check_room(connection, new)
        hook, time = new.webhook, now(connection)
        values = {
            "id": secrets.token_urlsafe(16),
            "owner": new.owner,
            "model": new.model,
            "digest": new.digest,
            "dialect": new.dialect,
            "request": json.dumps(new.request),
            "work": new.work,
            "images": new.images,
            "evaluations": new.evaluations,
            "rank": -new.priority,
            "turn": _turn(connection, new.owner),
            "status": JobStatus.QUEUED,
            "created": time,
            "deadline": None if new.timeout is None else time + timedelta(seconds=new.timeout),
            "webhook": hook and hook.url,
            "webhook_events": hook and json.dumps(hook.events),
            "key": new.key,
        }
        inserted = sql.insert(JOBS).values(values).returning(JOBS.c.number)
        number = connection.execute(inserted).scalar_one()
        (job,) = fetch(connection, SELECT.where(JOBS.c.number == number))
        return job, _ahead(connection, job)

    def _check_room(self, connection: Connection, new: NewJob) -> None:
        table, room = JOBS.c, self._room
        active = sql.select(sql.func.count(), sql.func.coalesce(sql.func.sum(table.evaluations), 0))
        active = active.where(table.status.in_(_ACTIVE))
        jobs, evaluations = connection.execute(active.where(table.owner == new.owner)).one()
        whose, most, most_evaluations = "of this client", room.jobs, room.evaluations
        fits = jobs < most and (not jobs or evaluations + new.evaluations <= most_evaluations)
        if fits:
            jobs, evaluations = connection.execute(active).one()
            whose, most, most_evaluations = "of all", room.jobs_all, room.evaluations_all
            fits = jobs < most and (not jobs or evaluations + new.evaluations <= most_evaluations)
        if not fits:
            told = f"{jobs} jobs {whose} with {evaluations} evaluations wait or run; the limits are"
            raise TooManyJobs(f"{told} {most} and {most_evaluations}", _FULL_SECONDS)


def _one(connection: Connection, owner: str, job_id: str) -> Job:
    if jobs := fetch(connection, SELECT.where(owned(owner, job_id))):
        return jobs[0]
    raise UnknownJob(f"there is no job {job_id[:40]!r} of yours")


def _turn(connection: Connection, owner: str) -> int:
    """When an owner's next job is to start, in evaluations: start-time fair queueing.

    After all that the owner has waiting, and no earlier than the first of all that wait (Goyal, Vin
    and Cheng, "Start-time Fair Queuing", SIGCOMM 1996).
    """
    table = JOBS.c
    waiting = table.status == JobStatus.QUEUED
    first = sql.select(sql.func.min(table.turn)).where(waiting)
    own = sql.select(sql.func.max(table.turn + table.evaluations))
    own = own.where(waiting, table.owner == owner)
    return max(connection.execute(first).scalar() or 0, connection.execute(own).scalar() or 0)


def _ahead(connection: Connection, job: Job) -> Place:
    """What waits before one that waits."""
    if job.status != JobStatus.QUEUED:
        return Place(0, 0)
    table = JOBS.c
    own = sql.select(table.rank, table.turn).where(table.number == job.number)
    rank, turn = connection.execute(own).one()
    before = sql.or_(
        table.rank < rank,
        sql.and_(table.rank == rank, table.turn < turn),
        sql.and_(table.rank == rank, table.turn == turn, table.number < job.number),
    )
    told = sql.func.count(), sql.func.coalesce(sql.func.sum(table.evaluations), 0)
    statement = sql.select(*told).where(table.status == JobStatus.QUEUED, before)
    position, evaluations = connection.execute(statement).one()
    return Place(position, int(evaluations))
