"""How long things are kept: results by age and total size, jobs and answers by age."""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from app.jobs.keys import Keys
from app.jobs.results import Results
from app.jobs.rows import now
from app.jobs.store import JobStore
from app.jobs.tables import JOBS, RESULTS

_AT_ONCE = 500  # jobs per transaction
_SOONEST, _LATEST = 0.2, 30.0  # seconds between two looks


@dataclass(frozen=True)
class Retention:
    """Seconds that jobs, results and answers are kept, and bytes of all results."""

    jobs: float
    results: float
    answers: float
    bytes: int

    @property
    def look_seconds(self) -> float:
        """How often to look for what is to go: nothing is kept for much longer than it should."""
        return min(max(min(self.jobs, self.results, self.answers) / 10, _SOONEST), _LATEST)


class Keeping:
    """Removes what is no longer kept; every server may do so at once."""

    def __init__(self, store: JobStore, results: Results, keys: Keys, retention: Retention) -> None:
        self._store, self._results, self._keys = store, results, keys
        self.retention = retention

    async def tidy(self) -> None:
        """Remove what is too old or too much, the oldest first; raises `StoreUnavailable`."""
        kept, database = self.retention, self._store.database
        time = await database.run(now)
        await self._keys.forget(time - timedelta(seconds=kept.answers))
        while due := await database.run(self._due):
            await self._results.remove([job_id for job_id, elsewhere in due.values() if elsewhere])
            await database.run(lambda c, numbers=set(due): _expire(c, numbers))  # type: ignore[misc]
        while await database.run(lambda c: _prune(c, time - timedelta(seconds=kept.jobs))):
            pass

    def _due(self, connection: Connection) -> dict[int, tuple[str, bool]]:
        """Jobs whose results are to go next: number -> id, and whether they are elsewhere."""
        kept, table = self.retention, RESULTS.c
        latest = now(connection) - timedelta(seconds=min(kept.results, kept.jobs))
        due = JOBS.c.ended < latest
        total = connection.execute(sql.select(sql.func.sum(table.size))).scalar() or 0
        if int(total) > kept.bytes:  # one statement, as another server may remove some meanwhile
            newest = sql.func.sum(sql.func.sum(table.size)).over(order_by=JOBS.c.ended_no.desc())
            sizes = sql.select(JOBS.c.number, newest.label("bytes"))
            sizes = sizes.join(RESULTS, table.job == JOBS.c.number)
            sizes = sizes.group_by(JOBS.c.number, JOBS.c.ended_no)
            over = sizes.subquery()
            due |= JOBS.c.number.in_(sql.select(over.c.number).where(over.c.bytes > kept.bytes))
        files = (
            sql.select(JOBS.c.number, JOBS.c.id, sql.func.count(table.path) > 0)
            .join(RESULTS, table.job == JOBS.c.number)
            .where(due)
            .group_by(JOBS.c.number, JOBS.c.id, JOBS.c.ended_no)
            .order_by(JOBS.c.ended_no)
            .limit(_AT_ONCE)
        )
        return {number: (job_id, far) for number, job_id, far in connection.execute(files)}


def _expire(connection: Connection, numbers: set[int]) -> None:
    connection.execute(sql.delete(RESULTS).where(RESULTS.c.job.in_(numbers)))
    change = sql.update(JOBS).where(JOBS.c.number.in_(numbers)).values(expired=True)
    connection.execute(change)


def _prune(connection: Connection, before: datetime) -> bool:
    """Forget jobs that ended before; whether there may be more. Those with results stay."""
    old = sql.select(JOBS.c.number).where(JOBS.c.ended < before)
    old = old.where(~sql.exists().where(RESULTS.c.job == JOBS.c.number)).limit(_AT_ONCE)
    gone = connection.execute(sql.delete(JOBS).where(JOBS.c.number.in_(old)))
    return gone.rowcount == _AT_ONCE
