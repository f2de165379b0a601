"""Jobs from their acceptance to their end: claimed when there is room, drawn, and written down."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from app.engine.client import EngineClient
from app.engine.costs import solo
from app.engine.errors import DeadlineTooShort
from app.engine.results import Moved, Update
from app.errors import StoreUnavailable
from app.generation import Generation
from app.jobs import telling
from app.jobs.claims import Claim, Claims, Outcome
from app.jobs.drawing import Drawn, NotNow, draw
from app.jobs.events import EventHub
from app.jobs.job import Job, Webhook
from app.jobs.keeping import Keeping
from app.jobs.keys import Answer, Keyed, Keys
from app.jobs.results import Results
from app.jobs.store import JobStore, NewJob, Place
from app.jobs.waiting import Waiting
from app.jobs.work import Work, unpack

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0  # between two looks for jobs, of other servers or of a model that was loaded
_TIDY_SECONDS = 30.0
_PARTS = 8  # of all bytes of results: after one of them, it is looked whether there are too many
_BEATS = 3  # in the time of a lease
_LONGEST_WAIT = 10  # seconds between two tries to write an end


@dataclass(frozen=True)
class Asked:
    """What is to become a job: a request that was checked, and how it came."""

    generation: Generation
    media_type: str
    request: Mapping[str, Any]  # as asked, JSON
    dialect: str = "native"
    quality: int | None = None
    webhook: Webhook | None = None


@dataclass(frozen=True)
class Terms:
    """The name of a server, the seconds of its leases, and the images that it draws at once.

    By the models if `slots` is None.
    """

    server: str
    lease: float
    slots: int | None = None


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
        self._keeping, self._added = keeping, 0
        self._engine, self._lease, self._slots = engine, terms.lease, terms.slots
        self._claims = Claims(store, terms.server, terms.lease)
        self._held: dict[int, Claim] = {}  # by number, until their end is written
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._moved: dict[str, Moved] = {}  # how far jobs here are, by id
        self._news, self._full = asyncio.Event(), asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._begun, self._ends = False, math.inf  # time.monotonic()
        self._counts: dict[str, int] = {}

    def counts(self) -> Mapping[str, int]:
        """How many jobs of each status there are, as counted last."""
        return self._counts

    def moved(self, job: Job) -> Moved | None:
        """How far a job is that is drawn here."""
        return self._moved.get(job.id)

    def eta(self, job: Job, place: Place | None) -> float | None:
        """Seconds until a job ends, by its pace or by the work that lies before it; None: unknown.

        What others draw is not counted.
        """
        if moved := self._moved.get(job.id):
            return round(moved.left, 3)
        info = self._engine.models.get(job.model)
        if place is None or info is None or job.status.ended:
            return None
        params = unpack(job.work).request.params
        return round((place.rows + params.work) / self._engine.costs(params.lane).best.rate, 3)

    async def start(self) -> None:
        """Take up what is there, and look out for more."""
        self.store.database.check()
        self._begun = self.store.database.begun
        self._loops = [
            asyncio.create_task(loop()) for loop in (self._claim_on, self._beat_on, self._tidy_on)
        ]

    def drain(self, seconds: float) -> None:
        """Claim no more: the engine stops, and finishes what it can within so many seconds."""
        self._ends = time.monotonic() + seconds
        self.waiting.close([claim.job.id for claim in self._held.values()])
        self._news.set()

    async def close(self) -> None:
        """Let jobs end that the engine still finishes; the others wait for the next server."""
        left = self._ends - time.monotonic()
        if self._tasks and 0 < left < math.inf:
            await asyncio.wait(self._tasks.values(), timeout=left)
        tasks = [*self._loops, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._held:
            with contextlib.suppress(StoreUnavailable):  # their leases will end
                await self._claims.release(list(self._held.values()))
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
        work = Work(request, asked.media_type, asked.quality, asked.generation.marked)
        return NewJob(
            owner=request.asker.client,
            model=params.model,
            digest=info.digest,
            dialect=asked.dialect,
            request=asked.request,
            work=work.pack(),
            images=params.n,
            evaluations=params.n * params.evaluations,
            rows=params.work,
            priority=request.priority,
            webhook=asked.webhook,
        )

    async def accept(self, asked: Asked) -> tuple[Job, Place]:
        """A job, and what comes before it. From then on it ends, whatever happens.

        Raises:
            DeadlineTooShort, LimitExceeded, TooManyJobs, StoreUnavailable
        """
        new = self.admissible(asked)
        with asked.generation.permit.counted(new.rows):
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
        new = replace(self.admissible(asked), key=keyed.key)
        with asked.generation.permit.counted(new.rows) as charge:
            answer, accepted = await self.keys.accept(keyed, new, told)
            charge.repeated = accepted is None
        if accepted is not None:
            self.welcome(*accepted)
        return answer

    def welcome(self, job: Job, place: Place) -> None:
        """Note a job that the store has accepted."""
        self._begun = True
        self.hub.publish(job.owner, job.id, telling.queued(job, place.position))
        self._news.set()

    async def cancel(self, owner: str, job_id: str) -> Job:
        """A job that has ended now; its slots are free. Raises `UnknownJob`, `StoreUnavailable`."""
        job, ended = await self.store.cancel(owner, job_id)
        if ended:
            self._drop(job.number)
            self._tell(job)
        return job

    def _tell(self, ended: Job) -> None:
        """Tell of an end that was written."""
        self.hub.publish(ended.owner, ended.id, telling.ended(ended))
        self.waiting.tell(ended)

    def _drop(self, number: int) -> None:
        """Stop to draw a job that is no longer ours."""
        self._held.pop(number, None)
        if task := self._tasks.get(number):
            task.cancel()

    async def _claim_on(self) -> None:
        while True:
            self._news.clear()
            try:
                while room := self._room():
                    claims = await self._claims.claim(tuple(self._engine.names), room)
                    for claim in claims:
                        self._begin(claim)
                    if not claims:
                        break
            except StoreUnavailable:
                pass  # the log has it
            except Exception:
                log.exception("jobs could not be claimed because of a bug")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._news.wait()

    def _room(self) -> int:
        """How many more images the engine is to have from jobs: as many as keep it busy."""
        if not self._begun or self._ends < math.inf or not self._engine.accepting:
            return 0
        slots = self._slots or max(info.slots for info in self._engine.models.values())
        held = sum(claim.job.images for claim in self._held.values())
        return max(slots + slots // 4 + 1 - held, 0)

    def _begin(self, claim: Claim) -> None:
        number = claim.job.number
        self._held[number] = claim
        task = self._tasks[number] = asyncio.create_task(self._carry_out(claim))
        task.add_done_callback(lambda _: self._tasks.pop(number, None))

    async def _carry_out(self, claim: Claim) -> None:
        """Draw one job, and write its end; or let it wait again."""
        job = claim.job

        def note(news: Update) -> None:
            if isinstance(news, Moved):
                self._moved[job.id] = news
            self.hub.publish(job.owner, job.id, telling.update(job, news))

        try:
            await self._finish(claim, await draw(self._engine, job, note))
        except NotNow:
            self.waiting.give_up(job.id)
            await asyncio.sleep(_POLL_SECONDS if self._ends == math.inf else 0)
            with contextlib.suppress(StoreUnavailable):  # else the lease will end
                await self._claims.release([claim])
        except Exception:
            log.exception("a job failed because of a bug")
            await self._finish(claim, Drawn("the server failed; its log says why"))
        finally:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self._held.pop(job.number, None)
            self._moved.pop(job.id, None)
            self._news.set()

    async def _finish(self, claim: Claim, drawn: Drawn) -> None:
        ended = await self._written(claim, drawn)
        if ended is not None:
            self._tell(ended)

    async def _written(self, claim: Claim, drawn: Drawn) -> Job | None:
        """Write an end, as often as it takes: until then the result is kept here."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(0.2, _LONGEST_WAIT),
        ):
            with attempt:
                kept = await self.results.keep(claim, drawn.media_type, drawn.files)
                outcome = Outcome(kept, drawn.error, drawn.told)
                ended = await self._claims.finish(claim, outcome)
                self._grow(sum(map(len, drawn.files)))
                if ended is None:  # another server has it now
                    await self.results.remove([file.path for file in kept if file.path])
                return ended
        raise AssertionError("it tries until it is done")

    async def _tidy_on(self) -> None:
        """Tidy up from time to time, and sooner where results come fast."""
        while True:
            if self._begun:
                try:
                    await self._keeping.tidy()
                except StoreUnavailable:
                    pass  # the log has it
                except Exception:
                    log.exception("old jobs could not be removed because of a bug")
            self._full.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_TIDY_SECONDS):
                    await self._full.wait()

    def _grow(self, size: int) -> None:
        """Note bytes of new results."""
        self._added += size
        if self._added > self._keeping.retention.bytes // _PARTS:
            self._added = 0
            self._full.set()

    async def _beat_on(self) -> None:
        while True:
            if self._begun:
                try:
                    await self._beat()
                except StoreUnavailable:
                    pass  # the log has it
                except Exception:
                    log.exception("the leases of jobs could not be extended because of a bug")
            await asyncio.sleep(self._lease / _BEATS)

    async def _beat(self) -> None:
        held = {number: claim.fence for number, claim in self._held.items()}
        for number in await self._claims.beat(held):
            self._drop(number)  # cancelled, or taken by another server while this one was asleep
        await self.keys.beat()
        self._counts = await self.store.counts()
        self._news.set()
