"""Rows of the store <-> jobs."""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import sqlalchemy as sql
from sqlalchemy.engine import Connection, RowMapping
from sqlalchemy.sql.base import Executable

from app.jobs.job import Job, JobStatus, Picture, Webhook
from app.jobs.tables import COUNTERS, JOBS, RESULTS

ENDED = "ended"  # the counter of ends
_NEXT_END = (
    sql.update(COUNTERS)
    .where(COUNTERS.c.name == ENDED)
    .values(value=COUNTERS.c.value + 1)
    .returning(COUNTERS.c.value)
)
_PICTURES = (
    sql.select(*(RESULTS.c[name] for name in ("job", "image", "media_type", "size", "sha256")))
    .where(RESULTS.c.job.in_(sql.bindparam("jobs", expanding=True)))
    .order_by(RESULTS.c.job, RESULTS.c.image)
)


def now(connection: Connection) -> datetime:
    """The time by the one clock that all servers share: PostgreSQL's, or this machine's."""
    if connection.dialect.name == "postgresql":
        told: datetime = connection.execute(sql.select(sql.func.clock_timestamp())).scalar_one()
        return told.astimezone(UTC)
    return datetime.now(UTC)


def owned(owner: str, job_id: str) -> sql.ColumnElement[bool]:
    """Whether a job is the one of this id and owner. PostgreSQL knows no text with a NUL."""
    mine = sql.and_(JOBS.c.id == job_id, JOBS.c.owner == owner)
    return sql.false() if "\0" in job_id else mine


def next_end(connection: Connection) -> int:
    """The next number of an end. It locks the counter, so ends become visible in their order."""
    number: int = connection.execute(_NEXT_END).scalar_one()
    return number


def fetch(connection: Connection, statement: Executable, **values: object) -> list[Job]:
    """The jobs whose columns a statement gives, with what is known of their results."""
    rows = connection.execute(statement, values).mappings().all()
    pictures = _pictures(connection, [row["number"] for row in rows if row["ended_no"]])
    return [_job(row, pictures.get(row["number"], ())) for row in rows]


def _pictures(connection: Connection, numbers: Sequence[int]) -> dict[int, tuple[Picture, ...]]:
    if not numbers:
        return {}
    found: dict[int, tuple[Picture, ...]] = {}
    for job, *rest in connection.execute(_PICTURES, {"jobs": numbers}):
        found[job] = (*found.get(job, ()), Picture(*rest))
    return found


def _job(row: RowMapping, pictures: Iterable[Picture]) -> Job:
    hook = row["webhook"] and Webhook(row["webhook"], tuple(json.loads(row["webhook_events"])))
    same = ("number", "id", "owner", "model", "digest", "dialect", "work", "images", "created")
    later = ("started", "ended", "ended_no", "error", "expired", "key", "fence")
    return Job(
        **{name: row[name] for name in (*same, *later)},
        request=json.loads(row["request"]),
        status=JobStatus(row["status"]),
        told=tuple(json.loads(row["told"])),
        results=tuple(pictures),
        webhook=hook or None,
    )


SELECT = sql.select(JOBS)
