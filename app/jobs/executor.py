"""Draws the jobs of one server: claimed when there is room, and written down when they end."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from app.engine.client import EngineClient
from app.engine.errors import EngineUnavailable
from app.engine.fleet import State
from app.engine.results import Moved, Update
from app.errors import StoreUnavailable
from app.jobs import telling
from app.jobs.claims import Checkpoint, Claim, Claims, Outcome
from app.jobs.database import enduring
from app.jobs.drawing import Drawn, NotNow, draw, seconds_left
from app.jobs.events import EventHub
from app.jobs.job import Job
from app.jobs.results import Results
from app.jobs.store import JobStore
from app.jobs.waiting import Waiting
from app.jobs.waking import Waker
from app.jobs.work import request_of

log = logging.getLogger(__name__)

_POLL_SECONDS = 1.0  # between two looks for jobs, of other servers or of a model that was loaded
_BEATS, _LONGEST_BEAT = 3, 5.0  # in the time of a lease; seconds
_LONGEST_WAIT = 10  # seconds between two tries to write an end


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

    @property
    def beat(self) -> float:
        """Seconds between two times that leases are extended, and lost claims noticed."""
        return min(self.lease / _BEATS, _LONGEST_BEAT)


class Stage(Enum):
    """How far a claimed job is."""

    OPENING = auto()  # its model was never loaded
    DRAWING = auto()
    WRITING = auto()


@dataclass(eq=False)
class _Held:
    """A claim until its end is written."""

    claim: Claim
    stage: Stage = Stage.OPENING
    task: asyncio.Task[None] = field(init=False)


class JobExecutor:
    """`grown` is told the bytes of each new result. One event loop uses it."""

    def __init__(
        self,
        engine: EngineClient,
        store: JobStore,
        results: Results,
        hub: EventHub,
        waiting: Waiting,
        terms: Terms,
        grown: Callable[[int], None],
    ) -> None:
        self._engine, self._store, self._results, self._hub = engine, store, results, hub
        self._waiting, self._terms, self._grown = waiting, terms, grown
        self._claims = Claims(store, terms.server, terms.lease)
        self._held: dict[int, _Held] = {}  # by the number of the job
        self._tasks: set[asyncio.Task[None]] = set()  # also of claims that were lost
        self._moved: dict[str, Moved] = {}  # how far jobs here are, by id
        self._news = asyncio.Event()
        self.waker = Waker(engine, self._news.set)
        self._loops: list[asyncio.Task[None]] = []
        self._ends = math.inf  # time.monotonic()

    def moved(self, job: Job) -> Moved | None:
        """How far a job is that is drawn here."""
        return self._moved.get(job.id)

    def start(self) -> None:
        """Take up what is there, and look out for more."""
        self._loops = [
            asyncio.create_task(self._claim_on()),
            asyncio.create_task(self._look_on()),
            asyncio.create_task(self._beat_on()),
        ]

    def wake(self) -> None:
        """Look for jobs now."""
        self._news.set()

    def drain(self, seconds: float) -> None:
        """Claim no more: the engine stops, and finishes what it can within so many seconds."""
        self._ends = time.monotonic() + seconds
        for held in self._held.values():
            if held.stage is Stage.OPENING:  # it would wait for long, for nothing
                held.task.cancel()
        self._waiting.close([held.claim.job.id for held in self._held.values()])
        self._news.set()

    async def close(self) -> None:
        """Let jobs end that the engine still finishes; the others wait for the next server."""
        left = self._ends - time.monotonic()
        if self._tasks and 0 < left < math.inf:
            await asyncio.wait(self._tasks, timeout=left)
        tasks = [*self._loops, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, self.waker.close(), return_exceptions=True)
        if self._held:
            with contextlib.suppress(StoreUnavailable):  # their leases will end
                await self._claims.release([held.claim for held in self._held.values()])

    def drop(self, number: int) -> None:
        """Stop to draw a job that is no longer ours."""
        held = self._held.pop(number, None)
        if held and held.stage is not Stage.WRITING:  # else it finds out, and removes its files
            held.task.cancel()

    def tell(self, ended: Job) -> None:
        """Tell of an end that was written."""
        self._hub.publish(ended.owner, ended.id, telling.ended(ended))
        self._waiting.tell(ended)

    async def _claim_on(self) -> None:
        while True:
            self._news.clear()
            with enduring("jobs could not be claimed"):
                while room := self._room():
                    claims = await self._claims.claim(self._models(), room)
                    for claim in claims:
                        self._begin(claim)
                    if not claims:
                        break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._news.wait()

    def _room(self) -> int:
        """How many more images the engine is to have from jobs: as many as keep it busy."""
        if self._ends < math.inf or not self._engine.accepting or not self._store.database.begun:
            return 0
        slots = self._terms.slots or max(info.slots for info in self._engine.models.values())
        held = sum(held.claim.job.images for held in self._held.values())
        return max(slots + slots // 4 + 1 - held, 0)

    def _models(self) -> Mapping[str, str | None]:
        """The models whose jobs are claimed: the loaded ones, so that none waits for another.

        Where no more may be loaded, all, in the order of the queue: a model leaves for another once
        it has nothing to do. With the digests of their checkpoints, as far as they are known.
        """
        fleet, most, known = self._engine.fleet, self._terms.loaded, self._known()
        if most is not None and len(fleet.workers) >= most:
            return {name: known.get(name) for name in self._engine.names}
        return {name: known[name] for name in known if fleet.state(name) is State.LOADED}

    def _known(self) -> Mapping[str, str]:
        """The digests of the models that were loaded; some may be unloaded by now."""
        return {name: info.digest for name, info in self._engine.models.items()}

    async def _look_on(self) -> None:
        while True:
            with enduring("jobs that wait could not be looked at"):
                if self._store.database.begun:
                    await self._look()
            await asyncio.sleep(_POLL_SECONDS)

    async def _look(self) -> None:
        """End what waits beyond its deadline or in vain, and load what is waited for."""
        fleet, awaited = self._engine.fleet, await self._claims.awaited()
        replaced = self._replaced(awaited)
        if any(fleet.state(one.model) is not State.LOADED for one in replaced):
            await fleet.refresh()  # their files may be others again
            replaced = self._replaced(awaited)
        await self._claims.lapse(replaced)
        if self._ends == math.inf and self._engine.accepting:
            here = self._models()
            able = (one.model for one in awaited if one not in replaced)
            self.waker.wake(name for name in able if name not in here)

    def _replaced(self, awaited: Iterable[Checkpoint]) -> Collection[Checkpoint]:
        """Those of which this server has another under the model's name."""
        known = self._known()
        return [one for one in awaited if known.get(one.model, one.digest) != one.digest]

    async def _beat_on(self) -> None:
        while True:
            with enduring("the leases of jobs could not be extended"):
                if self._store.database.begun:
                    await self._beat()
            await asyncio.sleep(self._terms.beat)

    async def _beat(self) -> None:
        fences = {number: held.claim.fence for number, held in self._held.items()}
        had = [Checkpoint(*one) for one in self._known().items()]
        for number in await self._claims.beat(fences, had):
            self.drop(number)  # cancelled, or taken by another server while this one was asleep
        self._news.set()

    def _begin(self, claim: Claim) -> None:
        held = self._held[claim.job.number] = _Held(claim)
        held.task = asyncio.create_task(self._carry_out(held))
        self._tasks.add(held.task)
        held.task.add_done_callback(self._tasks.discard)

    async def _carry_out(self, held: _Held) -> None:
        """Draw one job, and write its end; or let it wait again."""
        job = held.claim.job

        def note(news: Update) -> None:
            if isinstance(news, Moved):
                self._moved[job.id] = news
            self._hub.publish(job.owner, job.id, telling.update(job, news))

        try:
            await self._opened(job)
            held.stage = Stage.DRAWING
            drawn = await draw(self._engine, job, note)
            held.stage = Stage.WRITING
            await self._finish(held.claim, drawn)
        except NotNow:
            self._waiting.give_up(job.id)
            await asyncio.sleep(_POLL_SECONDS if self._ends == math.inf else 0)
            with contextlib.suppress(StoreUnavailable):  # else the lease will end
                await self._claims.release([held.claim])
        except Exception:
            log.exception("a job failed because of a bug")
            await self._finish(held.claim, Drawn("the server failed; its log says why"))
        finally:
            stopped = held.task.cancelling()  # `close` lets it wait again
            if not stopped and self._held.get(job.number) is held:
                del self._held[job.number]
            self._moved.pop(job.id, None)
            self._news.set()

    async def _finish(self, claim: Claim, drawn: Drawn) -> None:
        ended = await self._written(claim, drawn)
        if ended is not None:
            self.tell(ended)

    async def _opened(self, job: Job) -> None:
        """Wait until a job's model was loaded once, while there is time; or the server stops."""
        if self._ends < math.inf and job.model not in self._engine.models:
            raise NotNow
        request = request_of(job.work)
        left = seconds_left(job, request.timeout if request else None)
        try:
            await self._engine.described(job.model, left)
        except EngineUnavailable as error:
            raise NotNow from error

    async def _written(self, claim: Claim, drawn: Drawn) -> Job | None:
        """Write an end, as often as it takes: until then the result is kept here."""
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_random_exponential(0.2, _LONGEST_WAIT),
        ):
            with attempt:
                kept = await self._results.keep(claim, drawn.media_type, drawn.files)
                outcome = Outcome(kept, drawn.error, drawn.told)
                ended = await self._claims.finish(claim, outcome)
                self._grown(sum(map(len, drawn.files)))
                if ended is None:  # another server has it now
                    await self._results.discard(claim)
                return ended
        raise AssertionError("it tries until it is done")
