"""The lives of a model's workers: each is watched, and another follows when it dies or hangs."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from app.engine.costs import Costs
from app.engine.process import WorkerProcess
from app.engine.text import one_line
from app.engine.watchdog import Upkeep, Watchdog
from app.engine.wire import Command, Event, LeftOut, Load, Loading, Progress, Ready, Stop

log = logging.getLogger(__name__)

_TRIES = 3  # to load a model at which the worker dies or hangs
_LONGEST_PAUSE = 30.0  # seconds between starts of a worker that dies while it loads
_GRACE_SECONDS, _GRACE_TICKS = 2.0, 3  # to end by itself; then it is killed


class Owner(Protocol):
    """Whoever has supervisors, and is told what becomes of their workers."""

    def heard(self, event: Event) -> None:
        """A worker said this; `LeftOut` is said for a worker that dies while it loads, too."""

    def buried(self, model: str) -> None:
        """A worker of this model died; its requests are unsent."""

    def ended(self, model: str, error: BaseException | None) -> None:
        """Nobody looks after this model any more: it did not load, or for a bug."""


class Supervisor:
    """Keeps a worker with one model, and starts it anew when it dies or hangs.

    It does that later and later while the model does not load, and in the end gives up: at once if
    the worker says why. A model that `stays` and was loaded once is tried for ever.
    """

    def __init__(
        self,
        load: Load,
        start: Callable[[Load], WorkerProcess],
        owner: Owner,
        upkeep: Upkeep,
        *,
        stays: bool,
    ) -> None:
        ((self.model, self._place),) = load.models.items()
        self._load, self._start, self._owner, self._upkeep = load, start, owner, upkeep
        self._stays = stays
        self._watchdog = Watchdog(upkeep)
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._served = False  # a worker was ready once
        self._told = False  # why this worker does not load
        self._tries = 0  # in a row at which a worker died before it was ready
        self._failures = 0  # lives in a row that did not load
        self.took = 0.0  # seconds the last loading did
        self._grace = _GRACE_SECONDS
        self.worker: WorkerProcess | None = None
        self.up = False  # a worker is there and warm
        self.leaving = False  # it is to end, and gets no more requests
        self.restarts = 0

    @property
    def outage(self) -> float:
        """Seconds until a worker is there, by what the last one took to load; 0 where one is."""
        if self.up:
            return 0.0
        return max(self.took - (self._watchdog.loading if self.worker else 0.0), 0.0)

    def launch(self) -> None:
        """Start a worker now: it loads while the rest of the server comes up."""
        if self.worker is None:
            self._watchdog, self._told = Watchdog(self._upkeep), False
            self.worker = self._start(self._load)

    def watch(self) -> None:
        """Start to supervise a worker."""
        if self._task is None:
            self._task = asyncio.create_task(self._supervise())
            self._task.add_done_callback(self._ended)

    def send(self, command: Command) -> None:
        """Say something to the worker, if there is one."""
        if self.worker is not None:
            self.worker.send(command)

    def retire(self) -> None:
        """Start no other worker when this one dies."""
        self._closing = True

    def kill(self) -> None:
        """Kill the worker, if there is one."""
        if self.worker is not None:
            self.worker.process.kill()

    async def close(self) -> None:
        """Stop the worker for good; a hung one is killed after a few ticks' time."""
        self.retire()
        self.up = False
        if self.worker is not None:
            self.worker.send(Stop())
            await self.worker.end(self._grace)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _supervise(self) -> None:
        while not self._closing:
            try:
                self.launch()
            except OSError as error:  # no processes, files or memory to be had, just now
                log.error("no worker can be started for %s: %s", self.model, error)
                loaded = False
            else:
                loaded = await self._live()
            self._failures = 0 if loaded else self._failures + 1
            if not self._closing:
                await asyncio.sleep(_pause(self._failures))

    async def _live(self) -> bool:
        """One worker's life, to its end; whether it loaded."""
        assert self.worker is not None
        reading: asyncio.Task[None] | None = None
        try:
            await self.worker.attach()
            reading = asyncio.create_task(self._read(self.worker))
            await self._look_after(self.worker, reading)
        except Exception:  # neither a worker nor what we made of its words is to be relied on now
            log.exception("the worker's message cannot be handled; the worker is replaced")
            self.worker.process.kill()
        finally:
            if reading is not None:
                reading.cancel()
        self.up = False
        status = await self.worker.end(self._grace)
        self.worker = None
        loaded = self._watchdog.tick is not None
        if not (self._closing or self._told):
            log.error("the worker of %s died (status %s)", self.model, status)
            self.restarts += 1
            if not loaded:
                self._blame(self._watchdog)
            self._owner.buried(self.model)
        return loaded

    async def _read(self, worker: WorkerProcess) -> None:
        while (event := await worker.event()) is not None:
            self._listen(event)

    async def _look_after(self, worker: WorkerProcess, reading: "asyncio.Task[None]") -> None:
        """Until it ends, or hangs and is killed; raises what reading its messages raised."""
        watchdog = self._watchdog
        while not reading.done():
            began, interval = time.monotonic(), watchdog.interval
            await asyncio.wait([reading], timeout=interval)
            seconds = min(time.monotonic() - began, interval)  # the rest the loop did not see
            if watchdog.look(seconds, heard=worker.heard, owes=bool(worker.owed)):
                self.up = False
                log.error("the worker of %s %s; it is killed", self.model, watchdog.verdict)
                worker.process.kill()
                return
        await reading

    def _listen(self, event: Event) -> None:
        if isinstance(event, Loading):
            self._watchdog.waiting = event.waiting
            return
        if isinstance(event, LeftOut):
            self._told = True
            self._leave_out(event.reason)
            return
        if isinstance(event, Ready):
            self.up = self._served = True
            self._tries = 0
            self.took, self._watchdog.tick = self._watchdog.loading, 0.0
            self._allow(info.costs for info in event.models)
        elif isinstance(event, Progress):
            self._allow(lane.costs for lane in event.lanes if lane.costs)
        self._owner.heard(event)

    def _allow(self, costs: Iterable[Costs]) -> None:
        """Let ticks take as long as these do, before a worker is taken for hung."""
        slowest = max((each.buckets[-1].seconds for each in costs), default=0.0)
        tick = self._watchdog.tick = max(self._watchdog.tick or 0.0, slowest)
        self._grace = max(_GRACE_SECONDS, _GRACE_TICKS * tick)

    def _blame(self, watchdog: Watchdog) -> None:
        """A worker died or hung while it loaded; the model may be the reason."""
        self._tries += 1
        if watchdog.overdue or self._tries >= _TRIES:
            died = f"the worker died {self._tries} times while loading it"
            self._leave_out(f"the worker {watchdog.verdict}" if watchdog.verdict else died)

    def _leave_out(self, reason: str) -> None:
        """Say that the model does not load; it may be tried again."""
        reason = one_line(reason)
        log.error("model %s is left out: %s", self.model, reason)
        if not (self._stays and self._served):
            self._closing = True
        shown = reason.replace(self._place or self.model, self.model)  # no path of ours
        self._owner.heard(LeftOut(self.model, shown))

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Nobody looks after the worker any more: as it should be, unless it is for a bug."""
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            log.critical("the worker's supervision failed", exc_info=error)
            self.up = False
            self.kill()
        self._owner.ended(self.model, error)


def _pause(failures: int) -> float:
    """Seconds before a worker is started after so many that did not load."""
    return min(2.0 ** min(failures, 10) - 1, _LONGEST_PAUSE)
