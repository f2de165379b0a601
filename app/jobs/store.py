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

ACTIVE = (JobStatus.QUEUED, JobStatus.RUNNING)
_of = sql.bindparam
# Written once: SQLAlchemy takes longer to build a statement than SQLite to run it.
_INSERT = sql.insert(JOBS).returning(*JOBS.c)
_END = sql.update(JOBS).where(JOBS.c.number == _of("of")).returning(*JOBS.c)
_ENDED_SINCE = (
    SELECT.where(JOBS.c.owner == _of("owner"), JOBS.c.ended_no > _of("cursor"))
    .order_by(JOBS.c.ended_no)
    .limit(_of("most"))
)
_WAITS = JOBS.c.status == JobStatus.QUEUED
_STANDING = sql.select(
    sql.func.count().filter(JOBS.c.owner == _of("owner")),
    sql.func.sum(JOBS.c.evaluations).filter(JOBS.c.owner == _of("owner")),
    sql.func.count(),
    sql.func.sum(JOBS.c.evaluations),
    sql.func.min(JOBS.c.turn).filter(_WAITS),
    sql.func.max(JOBS.c.turn + JOBS.c.evaluations).filter(_WAITS, JOBS.c.owner == _of("owner")),
).where(JOBS.c.status.in_(ACTIVE))
_BEFORE = sql.select(
    sql.func.count(), sql.func.coalesce(sql.func.sum(JOBS.c.evaluations), 0)
).where(
    _WAITS,
    sql.tuple_(JOBS.c.rank, JOBS.c.turn, JOBS.c.number)
    < sql.tuple_(_of("rank"), _of("turn"), _of("number")),
)
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
        since = {"owner": owner, "cursor": cursor, "most": limit}
        return await self.database.run(lambda c: fetch(c, _ENDED_SINCE, **since))

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
                .where(JOBS.c.number == job.number, JOBS.c.status.in_(ACTIVE))
                .values(status=JobStatus.CANCELED, server=None, lease=None)
            )
            if not connection.execute(ending).rowcount:
                return _one(connection, owner, job_id), False
            return self.end(connection, job.number), True

        return await self.database.run(cancelled)

    async def counts(self) -> dict[str, int]:
        """How many jobs there are of each status."""
        statement = sql.select(JOBS.c.status, sql.func.count()).group_by(JOBS.c.status)
        return await self.database.run(lambda c: dict(c.execute(statement).all()))

    def end(self, connection: Connection, number: int) -> Job:
        """Number and date an end, and note it for those who are to be told; part of its change."""
        ended = {"ended": now(connection), "ended_no": next_end(connection)}
        (job,) = fetch(connection, _END, of=number, **ended)
        self.noted(connection, job)
        return job

    def add(self, connection: Connection, new: NewJob) -> tuple[Job, Place]:
        """A job and what comes before it, as part of a transaction; raises `TooManyJobs`."""
        standing = _standing(connection, new.owner)
        self._check_room(standing, new)
        hook, time, rank = new.webhook, now(connection), -new.priority
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
            "rank": rank,
            "turn": standing.turn,
            "status": JobStatus.QUEUED,
            "created": time,
            "deadline": None if new.timeout is None else time + timedelta(seconds=new.timeout),
            "webhook": hook and hook.url,
            "webhook_events": hook and json.dumps(hook.events),
            "key": new.key,
        }
        (job,) = fetch(connection, _INSERT, **values)
        return job, _before(connection, rank, standing.turn, job.number)

    def _check_room(self, standing: "_Standing", new: NewJob) -> None:
        room = self._room
        own, every = (room.jobs, room.evaluations), (room.jobs_all, room.evaluations_all)
        for whose, (jobs, evaluations), (most, most_evaluations) in (
            ("of this client", standing.own, own),
            ("of all", standing.every, every),
        ):
            if jobs >= most or (jobs and evaluations + new.evaluations > most_evaluations):
                told = f"{jobs} jobs {whose} with {evaluations} evaluations wait or run; the limits"
                raise TooManyJobs(f"{told} are {most} and {most_evaluations}", _FULL_SECONDS)


def _one(connection: Connection, owner: str, job_id: str) -> Job:
    if jobs := fetch(connection, SELECT.where(owned(owner, job_id))):
        return jobs[0]
    raise UnknownJob(f"there is no job {job_id[:40]!r} of yours")


class _Standing(NamedTuple):
    """How many jobs wait or run, and with how many evaluations: of an owner, and of all.

    `turn` is when the owner's next job is to start, in evaluations: start-time fair queueing
    (Goyal, Vin and Cheng, "Start-time Fair Queuing", SIGCOMM 1996).
    """

    own: tuple[int, int]
    every: tuple[int, int]
    turn: int


def _standing(connection: Connection, owner: str) -> _Standing:
    """What waits or runs; the next turn is after all that the owner has waiting.

    It is no earlier than the first of all that wait.
    """
    row = connection.execute(_STANDING, {"owner": owner}).one()
    jobs, evaluations, jobs_all, evaluations_all, first, last = (int(value or 0) for value in row)
    return _Standing((jobs, evaluations), (jobs_all, evaluations_all), max(first, last))


def _ahead(connection: Connection, job: Job) -> Place:
    """What waits before one that waits."""
    if job.status != JobStatus.QUEUED:
        return Place(0, 0)
    table = JOBS.c
    own = sql.select(table.rank, table.turn).where(table.number == job.number)
    return _before(connection, *connection.execute(own).one(), job.number)


def _before(connection: Connection, rank: int, turn: int, number: int) -> Place:
    """What waits before a place in the queue."""
    place = {"rank": rank, "turn": turn, "number": number}
    position, evaluations = connection.execute(_BEFORE, place).one()
    return Place(position, int(evaluations))
