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


@dataclass(frozen=True)
class Retention:
    """Seconds that jobs, results and answers are kept, and bytes of all results."""

    jobs: float
    results: float
    answers: float
    bytes: int


class Keeping:
    """Removes what is no longer kept; every server may do so at once."""

    def __init__(self, store: JobStore, results: Results, keys: Keys, retention: Retention) -> None:
        self._store, self._results, self._keys = store, results, keys
        self.retention = retention

    async def tidy(self) -> None:
        """Remove what is too old or too much, the oldest first; raises `StoreUnavailable`."""
        kept, database = self.retention, self._store.database
        while due := await database.run(self._due):
            await self._results.remove([path for _, path in due if path])
            numbers = {number for number, _ in due}
            await database.run(lambda c, numbers=numbers: _expire(c, numbers))  # type: ignore[misc]
        time = await database.run(now)
        while await database.run(lambda c: _prune(c, time - timedelta(seconds=kept.jobs))):
            pass
        await self._keys.forget(time - timedelta(seconds=kept.answers))

    def _due(self, connection: Connection) -> list[tuple[int, str | None]]:
        """Results that are to go next, as (number of the job, path of the file)."""
        kept, table = self.retention, RESULTS.c
        latest = now(connection) - timedelta(seconds=min(kept.results, kept.jobs))
        total = connection.execute(sql.select(sql.func.sum(table.size))).scalar() or 0
        excess = int(total) - kept.bytes
        oldest = (
            sql.select(JOBS.c.number, JOBS.c.ended, sql.func.sum(table.size))
            .join(RESULTS, table.job == JOBS.c.number)
            .group_by(JOBS.c.number, JOBS.c.ended, JOBS.c.ended_no)
            .order_by(JOBS.c.ended_no)
            .limit(_AT_ONCE)
        )
        if excess <= 0:
            oldest = oldest.where(JOBS.c.ended < latest)
        numbers = []
        for number, ended, size in connection.execute(oldest):
            if excess <= 0 and ended >= latest:
                break
            numbers.append(number)
            excess -= int(size)
        files = sql.select(table.job, table.path).where(table.job.in_(numbers))
        return [(number, path) for number, path in connection.execute(files)] if numbers else []


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
