"""Which server draws which job. A claim has a lease; only who holds it may write the job's end.

A claim is a job's number and its fence, a number that grows each time the job is claimed. A server
that lost its claim while it was asleep finds another fence, and its result is dropped.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from app.jobs.job import Job, JobStatus, Picture
from app.jobs.rows import SELECT, fetch, now
from app.jobs.store import JobStore
from app.jobs.tables import JOBS, RESULTS

_of = sql.bindparam
# Written once, as in `store`.
_WAITING = (
    sql.select(JOBS.c.number, JOBS.c.images)
    .where(JOBS.c.status == JobStatus.QUEUED, JOBS.c.model.in_(_of("models", expanding=True)))
    .order_by(JOBS.c.rank, JOBS.c.turn, JOBS.c.number)
    .limit(_of("most"))
    .with_for_update(skip_locked=True)
)
_TAKE = (
    sql.update(JOBS)
    .where(JOBS.c.number.in_(_of("chosen", expanding=True)))
    .values(
        status=JobStatus.RUNNING,
        started=sql.func.coalesce(JOBS.c.started, _of("time", type_=JOBS.c.started.type)),
        fence=JOBS.c.fence + 1,
        server=_of("server"),
        lease=_of("lease"),
    )
    .returning(*JOBS.c)
)
_CHANGE = (  # what a claim that still holds makes of its job
    sql.update(JOBS)
    .where(
        JOBS.c.number == _of("of"),
        JOBS.c.id == _of("id_"),  # in a new file numbers begin anew
        JOBS.c.server == _of("by"),
        JOBS.c.fence == _of("fence_"),
        JOBS.c.status == JobStatus.RUNNING,
    )
    .values(server=None, lease=None)
)
_AT_ONCE = 500  # jobs that end in one transaction
_MOST_LOSSES = 10  # servers that ended while they drew one job: it may be the reason


@dataclass(frozen=True)
class Claim:
    """A job that this server draws."""

    job: Job

    @property
    def fence(self) -> int:
        """The number of this claim among those of the job."""
        return self.job.fence


@dataclass(frozen=True)
class Kept:
    """A file of a result: in the store, or at a path of the folder or bucket."""

    picture: Picture
    content: bytes | None = None
    path: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How a job ends: with files, or with an error."""

    files: Sequence[Kept] = ()
    error: str | None = None
    told: Sequence[str] = ()  # cautions


class Claims:
    """The claims of one server."""

    def __init__(self, store: JobStore, server: str, lease: float) -> None:
        self._store, self._server, self._lease = store, server, timedelta(seconds=lease)

    async def claim(self, models: Sequence[str], images: int) -> list[Claim]:
        """The next jobs of these models, with about so many images; others' locks are skipped."""
        wanted = {"models": models, "most": images}

        def claimed(connection: Connection) -> list[Claim]:
            chosen, left = [], images
            for number, count in connection.execute(_WAITING, wanted):
                if left > 0:
                    chosen.append(number)
                left -= count
            if not chosen:
                return []
            time = now(connection)
            taken = {"time": time, "server": self._server, "lease": time + self._lease}
            jobs = fetch(connection, _TAKE, chosen=chosen, **taken)
            jobs.sort(key=lambda job: chosen.index(job.number))
            for job in jobs:
                if job.fence == 1:  # not where it is taken up again
                    self._store.noted(connection, job)
            return [Claim(job) for job in jobs]

        return await self._store.database.run(claimed)

    async def awaited(self) -> Sequence[str]:
        """The models that jobs wait for, in the order of the first job of each."""
        table = JOBS.c
        waiting = sql.select(table.model).where(table.status == JobStatus.QUEUED)
        models = waiting.group_by(table.model).order_by(sql.func.min(table.number))
        return await self._store.database.run(lambda c: c.execute(models).scalars().all())

    async def lapse(self) -> None:
        """End the jobs that wait beyond their deadlines."""
        table = JOBS.c
        waiting = table.status == JobStatus.QUEUED

        def lapsed(connection: Connection) -> None:
            late = sql.select(table.number, table.created, table.deadline)
            late = late.where(waiting, table.deadline < now(connection))
            late = late.limit(_AT_ONCE).with_for_update(skip_locked=True)
            for number, created, deadline in connection.execute(late).all():
                told = f"not done within {(deadline - created).total_seconds():g} seconds"
                change = {"status": JobStatus.FAILED, "error": told}
                connection.execute(sql.update(JOBS).where(table.number == number).values(change))
                self._store.end(connection, number)

        await self._store.database.run(lapsed)

    async def beat(self, held: Mapping[int, int]) -> set[int]:
        """Extend the leases of claims, number -> fence; give the numbers that are no longer ours.

        Jobs of servers that let theirs end wait again.
        """
        table = JOBS.c

        def beaten(connection: Connection) -> set[int]:
            time = now(connection)
            own = sql.and_(table.server == self._server, table.status == JobStatus.RUNNING)
            own = sql.and_(own, table.number.in_(held))
            extended = {"lease": time + self._lease}
            connection.execute(sql.update(JOBS).where(own).values(extended))
            kept = dict(connection.execute(sql.select(table.number, table.fence).where(own)).all())
            self._take_back(connection)
            return {number for number, fence in held.items() if kept.get(number) != fence}

        return await self._store.database.run(beaten)

    def _take_back(self, connection: Connection) -> None:
        """Let the jobs whose lease has ended wait again, or fail where that came too often."""
        table = JOBS.c
        late = (
            sql.select(table.number, table.losses)
            .where(table.status == JobStatus.RUNNING, table.lease < now(connection))
            .with_for_update(skip_locked=True)
        )
        for number, losses in connection.execute(late).all():
            change: dict[str, Any] = {"server": None, "lease": None, "losses": losses + 1}
            if losses + 1 < _MOST_LOSSES:
                change["status"] = JobStatus.QUEUED
            else:
                change["status"] = JobStatus.FAILED
                change["error"] = f"{losses + 1} servers ended while they drew it"
            connection.execute(sql.update(JOBS).where(table.number == number).values(change))
            if change["status"] == JobStatus.FAILED:
                self._store.end(connection, number)

    async def release(self, claims: Sequence[Claim]) -> None:
        """Let jobs wait again that this server will not finish."""

        def released(connection: Connection) -> None:
            for claim in claims:
                connection.execute(_CHANGE, {**self._own(claim), "status": JobStatus.QUEUED})

        await self._store.database.run(released)

    async def finish(self, claim: Claim, outcome: Outcome) -> Job | None:
        """Write the end of a job, with its results; None if the claim was lost, and nothing is.

        It may be called again where it failed: an end that was written all the same is found.
        """
        number = claim.job.number
        status = JobStatus.FAILED if outcome.error else JobStatus.SUCCEEDED
        change = {"status": status, "error": outcome.error, "told": json.dumps(outcome.told)}

        def finished(connection: Connection) -> Job | None:
            if not connection.execute(_CHANGE, {**self._own(claim), **change}).rowcount:
                same = SELECT.where(
                    JOBS.c.number == number,
                    JOBS.c.fence == claim.fence,
                    JOBS.c.status == status,
                )
                return next(iter(fetch(connection, same)), None)
            rows = [
                {
                    "job": number,
                    "image": kept.picture.index,
                    "media_type": kept.picture.media_type,
                    "size": kept.picture.size,
                    "sha256": kept.picture.sha256,
                    "path": kept.path,
                    "content": kept.content,
                }
                for kept in outcome.files
            ]
            if rows:
                connection.execute(sql.insert(RESULTS), rows)
            return self._store.end(connection, number)

        return await self._store.database.run(finished)

    def _own(self, claim: Claim) -> dict[str, Any]:
        """Which job a claim is of, as `_CHANGE` wants it."""
        job = claim.job
        return {"of": job.number, "id_": job.id, "by": self._server, "fence_": job.fence}
