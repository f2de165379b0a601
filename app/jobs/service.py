"""Jobs from their acceptance to their end: claimed when there is room, drawn, and written down."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from app.engine.client import EngineClient
from app.engine.costs import solo
from app.engine.errors import DeadlineTooShort, EngineUnavailable
from app.engine.fleet import State
from app.engine.job import MAX_TIMEOUT
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
from app.jobs.waking import Waker
from app.jobs.work import Work, unpack

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0  # between two looks for jobs, of other servers or of a model that was loaded
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
    """The name of a server, and the seconds of its leases.

    It draws `slots` images at once, or as many as its models say. `loaded` are the most models that
    may be loaded at once; None is no limit.
    """

    server: str
    lease: float
    slots: int | None = None
    loaded: int | None = None


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
        self._keeping, self._added = keeping, 0
        self._engine, self._terms = engine, terms
        self._claims = Claims(store, terms.server, terms.lease)
        self._held: dict[int, Claim] = {}  # by number, until their end is written
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._drawn: set[int] = set()  # those whose end is being written
        self._opening: set[int] = set()  # those whose model was never loaded
        self._moved: dict[str, Moved] = {}  # how far jobs here are, by id
        self._news, self._full = asyncio.Event(), asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._waker = Waker(engine, self._news.set)
        self._ends = math.inf  # time.monotonic()
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
        loops = (self._claim_on, self._look_on, self._beat_on, self._tidy_on)
        self._loops = [asyncio.create_task(loop()) for loop in loops]

    def drain(self, seconds: float) -> None:
        """Claim no more: the engine stops, and finishes what it can within so many seconds."""
        self._ends = time.monotonic() + seconds
        for number in self._opening:
            self._tasks[number].cancel()
        self._news.set()

    async def close(self) -> None:
        """Let jobs end that the engine still finishes; the others wait for the next server."""
        left = self._ends - time.monotonic()
        if self._tasks and 0 < left < math.inf:
            await asyncio.wait(self._tasks.values(), timeout=left)
        tasks = [*self._loops, *self._tasks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self._waker.close(), return_exceptions=True)
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
            timeout=timeout,
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
        self.hub.publish(job.owner, job.id, telling.queued(job, place.position))
        self._news.set()

    async def cancel(self, owner: str, job_id: str) -> Job:
        """A job that has ended now; its slots are free. Raises `UnknownJob`, `StoreUnavailable`."""
        job, ended = await self.store.cancel(owner, job_id)
        if ended:
            self._drop(job.number)
            self.hub.publish(owner, job.id, telling.ended(job))
        return job

    def _drop(self, number: int) -> None:
        """Stop to draw a job that is no longer ours."""
        self._held.pop(number, None)
        task = self._tasks.get(number)
        if task and number not in self._drawn:  # else it finds that out, and removes its files
            task.cancel()

    async def _claim_on(self) -> None:
        while True:
            self._news.clear()
            try:
                while room := self._room():
                    claims = await self._claims.claim(self._models(), room)
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
        if self._ends < math.inf or not self._engine.accepting or not self.store.database.begun:
            return 0
        slots = self._terms.slots or max(info.slots for info in self._engine.models.values())
        held = sum(claim.job.images for claim in self._held.values())
        return max(slots + slots // 4 + 1 - held, 0)

    def _models(self) -> Sequence[str]:
        """The models whose jobs are claimed: the loaded ones, so that none waits for another.

        Where no more may be loaded, all, in the order of the queue: a model leaves for another once
        it has nothing to do.
        """
        fleet, most = self._engine.fleet, self._terms.loaded
        if most is not None and len(fleet.workers) >= most:
            return self._engine.names
        return [name for name in self._engine.names if fleet.state(name) is State.LOADED]

    async def _look_on(self) -> None:
        """End what waits beyond its deadline, and load what is waited for."""
        while True:
            if self.store.database.begun:
                try:
                    await self._claims.lapse()
                    if self._ends == math.inf and self._engine.accepting:
                        here = self._models()
                        awaited = await self._claims.awaited()
                        self._waker.wake(name for name in awaited if name not in here)
                except StoreUnavailable:
                    pass  # the log has it
                except Exception:
                    log.exception("jobs that wait could not be looked at because of a bug")
            await asyncio.sleep(_POLL_SECONDS)

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
            await self._opened(job)
            drawn = await draw(self._engine, job, note)
            self._drawn.add(job.number)
            ended = await self._written(claim, drawn)
            if ended is not None:
                self.hub.publish(job.owner, job.id, telling.ended(ended))
        except NotNow:
            await asyncio.sleep(_POLL_SECONDS if self._ends == math.inf else 0)
            with contextlib.suppress(StoreUnavailable):  # else the lease will end
                await self._claims.release([claim])
        except Exception:
            log.exception("a job failed because of a bug")
            await self._written(claim, Drawn("the server failed; its log says why"))
        finally:
            if not asyncio.current_task().cancelling():  # type: ignore[union-attr]
                self._held.pop(job.number, None)
            self._drawn.discard(job.number)
            self._moved.pop(job.id, None)
            self._news.set()

    async def _opened(self, job: Job) -> None:
        """Wait until a job's model was loaded once; a stop of the server ends that at once."""
        self._opening.add(job.number)
        try:
            await self._engine.described(job.model, MAX_TIMEOUT)
        except EngineUnavailable as error:
            raise NotNow from error
        finally:
            self._opening.discard(job.number)

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
                    await self.results.discard(claim)
                return ended
        raise AssertionError("it tries until it is done")

    async def _tidy_on(self) -> None:
        """Tidy up from time to time, and sooner where results come fast."""
        while True:
            if self.store.database.begun:
                try:
                    await self._keeping.tidy()
                except StoreUnavailable:
                    pass  # the log has it
                except Exception:
                    log.exception("old jobs could not be removed because of a bug")
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

    async def _beat_on(self) -> None:
        while True:
            if self.store.database.begun:
                try:
                    await self._beat()
                except StoreUnavailable:
                    pass  # the log has it
                except Exception:
                    log.exception("the leases of jobs could not be extended because of a bug")
            await asyncio.sleep(self._terms.lease / _BEATS)

    async def _beat(self) -> None:
        held = {number: claim.fence for number, claim in self._held.items()}
        for number in await self._claims.beat(held):
            self._drop(number)  # cancelled, or taken by another server while this one was asleep
        await self.keys.beat()
        self._counts = await self.store.counts()
        self._news.set()
