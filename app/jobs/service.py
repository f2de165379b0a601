"""Jobs as routes see them: accepted, told of and cancelled. `executor` draws them."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from app.engine.client import EngineClient
from app.engine.costs import solo
from app.engine.errors import DeadlineTooShort
from app.engine.results import Moved
from app.files.ids import has_own_size
from app.generation import Generation
from app.jobs import telling
from app.jobs.database import enduring
from app.jobs.events import EventHub
from app.jobs.executor import JobExecutor, Terms
from app.jobs.job import Job, Webhook
from app.jobs.keeping import Keeping
from app.jobs.keys import Answer, Keyed, Keys
from app.jobs.results import Results
from app.jobs.store import JobStore, NewJob, Place
from app.jobs.waiting import Waiting
from app.jobs.work import Work, request_of

T = TypeVar("T")

_PARTS = 8  # of all bytes of results: after one of them, it is looked whether there are too many


@dataclass(frozen=True)
class Asked:
    """What is to become a job: a request that was checked, and how it came."""

    generation: Generation
    media_type: str
    request: Mapping[str, Any]  # as asked, JSON
    dialect: str = "native"
    quality: int | None = None
    webhook: Webhook | None = None


class JobService:
    """The jobs of one server. One event loop uses it."""

    def __init__(
        self,
        engine: EngineClient,
        store: JobStore,
        results: Results,
        hub: EventHub,
        keys: Keys,
        keeping: Keeping,
        terms: Terms,
    ) -> None:
        self.store, self.results, self.hub, self.keys = store, results, hub, keys
        self.waiting = Waiting(store)
        self._engine, self._beat, self._keeping = engine, terms.beat, keeping
        self._executor = JobExecutor(engine, store, results, hub, self.waiting, terms, self._grow)
        self._added, self._full = 0, asyncio.Event()
        self._changes: set[asyncio.Task[Any]] = set()  # of the store, for clients that may leave
        self._loops: list[asyncio.Task[None]] = []
        self._counts: dict[str, int] = {}

    def counts(self) -> Mapping[str, int]:
        """How many jobs of each status there are, as counted last."""
        return self._counts

    def moved(self, job: Job) -> Moved | None:
        """How far a job is that is drawn here."""
        return self._executor.moved(job)

    def eta(self, job: Job, place: Place | None) -> float | None:
        """Seconds until a job ends, by its pace or by the work that lies before it; None: unknown.

        What others draw is not counted.
        """
        if moved := self.moved(job):
            return round(moved.left, 3)
        info = self._engine.models.get(job.model)
        request = request_of(job.work)
        if place is None or info is None or request is None or job.status.ended:
            return None
        params = request.params
        return round(
            (place.evaluations + params.work) / self._engine.costs(params.lane).best.rate, 3
        )

    async def start(self) -> None:
        """Take up what is there, and look out for more."""
        self.store.database.check()
        self._executor.start()
        self._loops = [asyncio.create_task(loop()) for loop in (self._beat_on, self._tidy_on)]

    def drain(self, seconds: float) -> None:
        """Claim no more: the engine stops, and finishes what it can within so many seconds."""
        self._executor.drain(seconds)

    async def close(self) -> None:
        """Let jobs end that the engine still finishes; the others wait for the next server."""
        await self._executor.close()
        for task in self._loops:
            task.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        await self.results.close()
        await self.store.database.close()

    def admissible(self, asked: Asked) -> NewJob:
        """What the store takes; raises `DeadlineTooShort` as the engine would."""
        request, info = asked.generation.request, asked.generation.info
        params, timeout = request.params, request.timeout
        costs = self._engine.costs(params.lane)
        alone = solo(costs, evaluations=params.evaluations, rows=params.work)
        if timeout is not None and alone > timeout:
            told = f"timeout: {timeout:g} s is too short; the request takes about {alone:.2g} s"
            raise DeadlineTooShort(f"{told} alone")
        work = Work(
            request,
            asked.media_type,
            asked.quality,
            asked.generation.marked,
            info.classes.name(params.condition),
            has_own_size(params, info),
        )
        return NewJob(
            owner=request.asker.client,
            model=params.model,
            digest=info.digest,
            dialect=asked.dialect,
            request=asked.request,
            work=work.pack(),
            images=params.n,
            evaluations=params.work,
            priority=request.priority,
            timeout=timeout,
            webhook=asked.webhook,
        )

    async def accept(self, asked: Asked) -> tuple[Job, Place]:
        """A job, and what comes before it. From then on it ends, whatever happens.

        Raises:
            DeadlineTooShort, LimitExceeded, TooManyJobs, StoreUnavailable
        """
        return await self._whole(self._accept(asked))

    async def _accept(self, asked: Asked) -> tuple[Job, Place]:
        new = self.admissible(asked)
        with asked.generation.permit.counted(new.evaluations):
            job, place = await self.store.accept(new)
        self.welcome(job, place)
        return job, place

    async def accept_once(
        self, keyed: Keyed, asked: Asked, told: Callable[[Job, Place], Answer]
    ) -> Answer:
        """The answer to a request that becomes a job the first time that it comes.

        Raises:
            DeadlineTooShort, LimitExceeded, TooManyJobs, StoreUnavailable, KeyInUse, KeyReused
        """
        return await self._whole(self._accept_once(keyed, asked, told))

    async def _accept_once(
        self, keyed: Keyed, asked: Asked, told: Callable[[Job, Place], Answer]
    ) -> Answer:
        if kept := await self.keys.find(keyed):  # it costs nothing, also where nothing is left
            return kept
        new = replace(self.admissible(asked), key=keyed.key)
        with asked.generation.permit.counted(new.evaluations) as charge:
            answer, accepted = await self.keys.accept(keyed, new, told)
            charge.repeated = accepted is None
        if accepted is not None:
            self.welcome(*accepted)
        return answer

    def welcome(self, job: Job, place: Place) -> None:
        """Note a job that the store has accepted."""
        self.hub.publish(job.owner, job.id, telling.queued(job, place.position))
        self._executor.wake()

    async def cancel(self, owner: str, job_id: str) -> Job:
        """A job that has ended now; its slots are free. Raises `UnknownJob`, `StoreUnavailable`."""
        job, ended = await self.store.cancel(owner, job_id)
        if ended:
            self._executor.drop(job.number)
            self._executor.tell(job)
        return job

    async def _whole(self, change: Coroutine[Any, Any, T]) -> T:
        """What a change of the store gives, with all that follows from it.

        A transaction that has begun ends though its client leaves. So must what follows.
        """
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changed)
        await asyncio.wait([task])
        return task.result()

    def _changed(self, task: "asyncio.Task[Any]") -> None:
        self._changes.discard(task)
        if not task.cancelled():
            task.exception()  # a client that has left is told nothing

    async def _beat_on(self) -> None:
        """Extend the leases of requests with a key, and count the jobs."""
        while True:
            with enduring("jobs could not be counted"):
                if self.store.database.begun:
                    await self.keys.beat()
                    self._counts = await self.store.counts()
            await asyncio.sleep(self._beat)

    async def _tidy_on(self) -> None:
        """Tidy up from time to time, and sooner where results come fast."""
        while True:
            with enduring("old jobs could not be removed"):
                if self.store.database.begun:
                    await self._keeping.tidy()
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._keeping.retention.look_seconds):
                    await self._full.wait()

    def _grow(self, size: int) -> None:
        """Note bytes of new results."""
        self._added += size
        if self._added > self._keeping.retention.bytes // _PARTS:
            self._added = 0
            self._full.set()
