"""Which server draws which job. A claim has a lease; only who holds it may write the job's end.

A claim is a job's number and its fence, a number that grows each time the job is claimed. A server
that lost its claim while it was asleep finds another fence, and its result is dropped.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from app.jobs.job import Job, JobStatus, Picture
from app.jobs.rows import SELECT, fetch, now
from app.jobs.store import ACTIVE, JobStore
from app.jobs.tables import CHECKPOINTS, JOBS, RESULTS

_of = sql.bindparam
_CHECKPOINT = sql.tuple_(JOBS.c.model, JOBS.c.digest)
_OURS = _CHECKPOINT.in_(_of("ours", expanding=True))
# Written once, as in `store`.
_WAITING = (
    sql.select(JOBS.c.number, JOBS.c.images)
    .where(JOBS.c.status == JobStatus.QUEUED)
    .where(sql.or_(_OURS, JOBS.c.model.in_(_of("unread", expanding=True))))
    .where(sql.or_(JOBS.c.deadline.is_(None), JOBS.c.deadline >= _of("time")))  # else see `lapse`
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
_HAD = (  # of some checkpoints, those that a server has
    sql.select(CHECKPOINTS.c.model, CHECKPOINTS.c.digest)
    .where(sql.tuple_(CHECKPOINTS.c.model, CHECKPOINTS.c.digest).in_(_of("of", expanding=True)))
    .where(CHECKPOINTS.c.lease >= _of("time"))
)
_REPLACED = (
    sql.select(JOBS.c.number, JOBS.c.model)
    .where(JOBS.c.status == JobStatus.QUEUED, JOBS.c.created < _of("before"))
    .where(_CHECKPOINT.in_(_of("replaced", expanding=True)))
    .limit(_of("most"))
    .with_for_update(skip_locked=True)
)
_ANY_ACTIVE = sql.select(sql.exists().where(JOBS.c.status.in_(ACTIVE)))
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
_REPLACED_SECONDS = 60  # that a job waits for a server with its checkpoint: one may start again
_MOST_LOSSES = 10  # servers that ended while they drew one job: it may be the reason


class Checkpoint(NamedTuple):
    """What a job is to be drawn with: the name of a model, and the SHA-256 of its files."""

    model: str
    digest: str


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

    async def claim(self, models: Mapping[str, str | None], images: int) -> list[Claim]:
        """The next jobs of these models, with about so many images; others' locks are skipped.

        `models` are names -> digest of the checkpoint: jobs that were accepted for another one are
        left to other servers. It is None for a model that is yet to be read.
        """
        ours = [(name, digest) for name, digest in models.items() if digest is not None]
        unread = [name for name, digest in models.items() if digest is None]
        wanted = {"ours": ours, "unread": unread, "most": images}

        def claimed(connection: Connection) -> list[Claim]:
            chosen, left, time = [], images, now(connection)
            for number, count in connection.execute(_WAITING, wanted | {"time": time}):
                if left > 0:
                    chosen.append(number)
                left -= count
            if not chosen:
                return []
            taken = {"time": time, "server": self._server, "lease": time + self._lease}
            jobs = fetch(connection, _TAKE, chosen=chosen, **taken)
            jobs.sort(key=lambda job: chosen.index(job.number))
            for job in jobs:
                if job.fence == 1:  # not where it is taken up again
                    self._store.noted(connection, job)
            return [Claim(job) for job in jobs]

        return await self._store.database.run(claimed)

    async def awaited(self) -> Sequence[Checkpoint]:
        """The checkpoints that jobs wait for, in the order of the first job of each."""
        table = JOBS.c
        waiting = sql.select(table.model, table.digest).where(table.status == JobStatus.QUEUED)
        waiting = waiting.group_by(table.model, table.digest).order_by(sql.func.min(table.number))
        rows = await self._store.database.run(lambda c: c.execute(waiting).all())
        return [Checkpoint(*row) for row in rows]

    async def lapse(self, replaced: Collection[Checkpoint]) -> None:
        """End the jobs that wait beyond their deadlines, or for a checkpoint that nobody has.

        That is one of those that were `replaced` here, and that no server had for a while.
        """
        table = JOBS.c
        waiting = table.status == JobStatus.QUEUED

        def lapsed(connection: Connection) -> None:
            time = now(connection)
            late = sql.select(table.number, table.created, table.deadline)
            late = late.where(waiting, table.deadline < time)
            late = late.limit(_AT_ONCE).with_for_update(skip_locked=True)
            for number, created, deadline in connection.execute(late).all():
                told = f"not done within {(deadline - created).total_seconds():g} seconds"
                self._fail(connection, number, told)
            had = connection.execute(_HAD, {"of": list(replaced), "time": time}).all()
            gone = set(replaced).difference(Checkpoint(*row) for row in had)
            before = time - timedelta(seconds=_REPLACED_SECONDS)
            lost = {"replaced": list(gone), "before": before, "most": _AT_ONCE}
            for number, model in connection.execute(_REPLACED, lost).all() if gone else ():
                told = f"model {model!r} is not the one that the job was accepted for"
                self._fail(connection, number, told)

        await self._store.database.run(lapsed)

    def _fail(self, connection: Connection, number: int, told: str) -> None:
        """End a job that waits."""
        change = {"status": JobStatus.FAILED, "error": told}
        connection.execute(sql.update(JOBS).where(JOBS.c.number == number).values(change))
        self._store.end(connection, number)

    async def beat(self, held: Mapping[int, int], had: Collection[Checkpoint] = ()) -> set[int]:
        """Extend the leases of claims, number -> fence; give the numbers that are no longer ours.

        Jobs of servers that let theirs end wait again. Other servers are told of the checkpoints
        that this one `had` until now.
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
            self._announce(connection, had)
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

    def _announce(self, connection: Connection, had: Collection[Checkpoint]) -> None:
        """Say which checkpoints this server has, if there are jobs that it matters to."""
        if not had or not connection.execute(_ANY_ACTIVE).scalar():
            return
        table, time = CHECKPOINTS.c, now(connection)
        own = sql.and_(table.server == self._server, sql.tuple_(table.model, table.digest).in_(had))
        connection.execute(sql.delete(CHECKPOINTS).where(sql.or_(own, table.lease < time)))
        lease = time + timedelta(seconds=_REPLACED_SECONDS)
        rows = [{"server": self._server, "lease": lease, **one._asdict()} for one in had]
        connection.execute(sql.insert(CHECKPOINTS), rows)

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
