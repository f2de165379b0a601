"""Who waits for the ends of jobs, whichever server draws them."""

import asyncio
from collections.abc import Collection

from app.jobs.database import enduring
from app.jobs.job import Job
from app.jobs.store import JobStore

_POLL_SECONDS = 1.0  # between two looks at what other servers have ended


class Waiting:
    """Tells each end to those who wait for it. One event loop uses it."""

    def __init__(self, store: JobStore) -> None:
        self._store = store
        self._waits: dict[str, set[asyncio.Future[Job | None]]] = {}  # by id of the job
        self._watching: asyncio.Task[None] | None = None
        self._last: set[str] | None = None  # whose ends alone may still come here

    async def end(self, job_id: str, seconds: float) -> Job | None:
        """A job that has ended; None if it has not within so many seconds, or will not here."""
        if self._last is not None and job_id not in self._last:
            return None
        wait = asyncio.get_running_loop().create_future()
        self._waits.setdefault(job_id, set()).add(wait)
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        try:
            async with asyncio.timeout(seconds):
                ended: Job | None = await wait
                return ended
        except TimeoutError:
            return None
        finally:
            self._leave(job_id, wait)

    def tell(self, job: Job) -> None:
        """Tell of an end."""
        self._answer(job.id, job)

    def close(self, last: Collection[str]) -> None:
        """Let nobody wait any longer, but for the ends of the `last` jobs, by their ids."""
        self._last = set(last)
        for job_id in self._waits.keys() - self._last:
            self._answer(job_id, None)

    def give_up(self, job_id: str) -> None:
        """Once closed: let nobody wait for this one either."""
        if self._last is not None:
            self._last.discard(job_id)
            self._answer(job_id, None)

    def _answer(self, job_id: str, job: Job | None) -> None:
        for wait in self._waits.get(job_id, ()):
            if not wait.done():
                wait.set_result(job)

    def _leave(self, job_id: str, wait: "asyncio.Future[Job | None]") -> None:
        waits = self._waits[job_id]
        waits.discard(wait)
        if not waits:
            del self._waits[job_id]
        if not self._waits and self._watching is not None:
            self._watching.cancel()
            self._watching = None

    async def _watch(self) -> None:
        """Look for ends that nobody here tells of, or that came before somebody waited."""
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            with enduring("ends of jobs that are waited for could not be looked for"):
                for job in await self._store.ended(tuple(self._waits)):
                    self.tell(job)
