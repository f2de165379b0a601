"""The server's side of the engine: whether it takes requests, and how to await one.

Every model has a worker, a separate process. When it dies, a new one is started and its unfinished
requests are sent again, in order. Seeds fix their pixels, so clients only see a longer wait.
"""

import asyncio
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from app.engine.costs import Costs
from app.engine.dispatcher import Dispatcher
from app.engine.errors import DeadlineExceeded, EngineUnavailable
from app.engine.job import Request
from app.engine.keeping import Keeping
from app.engine.ledger import Limits
from app.engine.model_info import LaneId, ModelInfo
from app.engine.observer import Observer
from app.engine.pending import Pending, Watch
from app.engine.process import WorkerProcess
from app.engine.results import Result
from app.engine.stats import Stats
from app.engine.watchdog import Upkeep
from app.engine.wire import Load

_SOON = 5  # seconds after which to try again, while models load
_DRAIN_SECONDS = 0.05  # seconds between two checks whether all is done


class EngineClient:
    """Hands requests to workers and their images back. One event loop uses it."""

    def __init__(
        self,
        load: Load,
        limits: Limits,
        start: Callable[[Load], WorkerProcess] = WorkerProcess,
        upkeep: Upkeep | None = None,
        keeping: Keeping | None = None,
    ) -> None:
        self._load = load
        self._news = asyncio.Event()  # set briefly when requests may be taken, or never will be
        self._dispatcher = Dispatcher(
            load, limits, start, upkeep or Upkeep(), keeping or Keeping(), self._tell
        )
        self._ledger, self.fleet = self._dispatcher.ledger, self._dispatcher.fleet
        self.observer = Observer()

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The models that were loaded, by name, the default first; empty until they are.

        Some may be unloaded by now: a request for one loads it again.
        """
        return self._ledger.models

    @property
    def names(self) -> Sequence[str]:
        """What requests may name: all models, loaded or not, except those that failed."""
        return tuple(name for name in self.fleet.names if name not in self.failed)

    @property
    def failed(self) -> Mapping[str, str]:
        """The models that did not load, by name, and the reasons."""
        return self.fleet.failed

    @property
    def stats(self) -> Stats:
        """What was done since the server started."""
        return self._ledger.stats

    @property
    def ready(self) -> bool:
        """Whether requests are taken, and the models that stay are loaded."""
        return self.fleet.ready and self.accepting

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: ready, or about to be again."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """Why no requests are taken; None if they are."""
        if self._dispatcher.ends < math.inf:
            return "the server is stopping"
        if self.fleet.fault is not None or self.models:
            return self.fleet.fault
        failures = (f"{name}: {reason}" for name, reason in self.failed.items())
        return "; ".join(["the models are not loaded", *failures])

    @property
    def loading(self) -> bool:
        """Whether requests are not taken yet, but will be."""
        hopeless = self._dispatcher.ends < math.inf or self.fleet.fault is not None
        return not self.models and not hopeless and self.fleet.watching

    @property
    def wanted(self) -> Sequence[str]:
        """The names of the models that are loaded at the start."""
        return tuple(self._load.models)

    @property
    def timeout(self) -> float:
        """The deadline in seconds of requests that name none."""
        return self._ledger.limits.seconds

    @property
    def jobs(self) -> int:
        """Requests waiting or running."""
        return len(self._ledger.requests)

    @property
    def requests(self) -> Collection[Pending]:
        """Those waiting or running, in order of arrival."""
        return self._ledger.requests.values()

    def costs(self, lane: LaneId) -> Costs:
        """What ticks of a lane cost, as it learned from those it made; see `ModelInfo.lane`."""
        return self._ledger.costs(lane)

    def rows(self, info: ModelInfo) -> int:
        """The most rows per tick of this model at its own size."""
        return self._load.rows or self.costs(info.lane).best.rows

    async def start(self) -> None:
        """Start to look after the workers."""
        self.fleet.watch()

    async def loaded(self, timeout: float | None = None) -> None:
        """Return when requests are taken.

        Raises:
            EngineUnavailable: they will not be, or not within `timeout` seconds.
        """
        if self.loading:
            try:
                async with asyncio.timeout(timeout):
                    while self.loading:
                        await self._news.wait()
            except TimeoutError as error:
                told = f"the models are not loaded yet, after {timeout:g} seconds"
                raise EngineUnavailable(told, _SOON) from error
        if refusal := self.refusal:
            raise EngineUnavailable(refusal)

    async def described(self, name: str, timeout: float) -> None:
        """Return when it is known what a model takes, or that there is none of this name.

        A model that was never loaded is loaded for that.

        Raises:
            EngineUnavailable: it does not load, or not within `timeout` seconds.
        """
        if name in self.models:
            return
        if name not in self.fleet.names:
            await self.fleet.refresh()
        if name in self.fleet.names:
            await self.open(name, timeout)

    async def open(self, name: str, timeout: float | None = None, *, at_once: bool = False) -> None:
        """Load one of the models, and return when it is loaded; see `Fleet.open`.

        Raises:
            EngineUnavailable: it does not load, or not within `timeout` seconds, or the limit.
        """
        timeout = self.timeout if timeout is None else timeout
        try:
            async with asyncio.timeout(timeout):
                await self.fleet.open(name, at_once=at_once)
        except TimeoutError as error:
            told = f"model {name!r} is not loaded yet, after {timeout:.3g} seconds"
            raise EngineUnavailable(told, _SOON) from error

    def _tell(self) -> None:
        """Wake whatever waits to learn whether requests are taken."""
        self._news.set()
        self._news.clear()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and finish those that can be done within `seconds`.

        Requests with a longer forecast fail at once with `EngineUnavailable`; what is left at the
        end fails then. If called again, the shorter time counts.
        """
        self._dispatcher.ends = min(self._dispatcher.ends, time.monotonic() + seconds)
        self._tell()
        self._dispatcher.turn_away()
        while self.jobs and (left := self._dispatcher.ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _DRAIN_SECONDS))
        self._dispatcher.fail_all(
            "the server is stopping; there was no time left to finish this request"
        )

    async def close(self) -> None:
        """Fail the remaining requests, and stop the workers."""
        self._dispatcher.ends = -math.inf
        self._tell()
        self._dispatcher.fail_all("the engine stopped")
        await self.fleet.close()

    async def generate(self, request: Request, watch: Watch | None = None) -> Result:
        """The images of a request, within its timeout, or within the limit if it has none.

        `watch` is told what becomes of it meanwhile: `Queued` at once and `Moved` in order, and the
        previews that it asks for. Cancelling the caller frees its slots after at most one more
        tick. Requests with equal parameters that are in flight at once are computed once, unless a
        later one is more urgent, wants previews or would wait longer for another client's than for
        its own.

        Raises:
            EngineUnavailable: not loaded, or stopped before it was done.
            EngineBusy: no room for it, or too much before it for it to be done in time.
            DeadlineTooShort, DeadlineExceeded: not to be done in time; not done in time.
            GenerationFailed: it failed on the way.
        """
        if refusal := self.refusal:
            raise EngineUnavailable(refusal)
        timeout = self.timeout if request.timeout is None else request.timeout
        asked = time.monotonic()
        pending = self._ledger.equal(request)
        if pending is None:
            self._ledger.admit(request, timeout)
            pending = self._dispatcher.submit(request)
        else:
            self.stats.shared += 1
        pending.waiters += 1
        if watch:
            pending.watches.append(watch)
            watch(self._dispatcher.place(pending))
        try:
            await asyncio.wait((pending.answer,), timeout=timeout)
            if not pending.answer.done():
                raise DeadlineExceeded(f"not done within {timeout:g} seconds")
            done = pending.answer.result()
        finally:
            pending.waiters -= 1
            if watch:
                pending.watches.remove(watch)
            if not pending.waiters and not pending.answer.done():
                self._dispatcher.abandon(pending)
        queue = max(pending.began - asked, 0.0)
        denoise = max(time.monotonic() - asked - queue - done.decoding, 0.0)
        return Result(done.images, queue, denoise, done.decoding, done.cut)
