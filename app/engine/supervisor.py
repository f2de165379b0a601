"""The worker's lives: one after the other, each watched, and a new one when it dies or hangs."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from app.engine.costs import Costs
from app.engine.process import WorkerProcess
from app.engine.text import one_line
from app.engine.watchdog import Upkeep, Watchdog
from app.engine.wire import Command, Event, LeftOut, Load, Loading, Progress, Ready, Stop

log = logging.getLogger(__name__)

_TRIES = 3  # to load a model at which the worker dies or hangs
_LONGEST_PAUSE = 30.0  # seconds between starts of a worker that dies while it loads
_GRACE_SECONDS, _GRACE_TICKS = 2.0, 3  # to end by itself; then it is killed


class Supervisor:
    """Keeps a worker: starts it anew when it dies or hangs, later and later while it cannot load.

    `handle` gets every event of a worker, and `buried` is called when one died. A model that does
    not load is left out, and `handle` is told. `refused` is called when no worker can go on, which
    is a reason to stop the server.
    """

    def __init__(
        self,
        load: Load,
        start: Callable[[Load], WorkerProcess],
        handle: Callable[[Event], None],
        buried: Callable[[], None],
        upkeep: Upkeep,
    ) -> None:
        self._start, self._handle, self._buried = start, handle, buried
        self._models, self._load, self._upkeep = load.models, load, upkeep
        self._watchdog = Watchdog(upkeep)
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._served = False  # a worker was ready once
        self._tries: Counter[str] = Counter()  # by model; workers that ended before any: ""
        self._failures = 0  # lives in a row that did not load, since a model was left out
        self._took = 0.0  # seconds the last loading did
        self._grace = _GRACE_SECONDS
        self.worker: WorkerProcess | None = None
        self.up = False  # a worker is there and warm
        self.restarts = 0
        self.failed: dict[str, str] = {}  # models that are left out, and why
        self.load_seconds: dict[str, float] = {}  # by model, what loading it took last
        self._opened = 0.0  # when the model that is being opened was; time.monotonic()
        self.fault: str | None = None  # why no worker can be had
        self.refused: Callable[[], None] = lambda: None

    @property
    def watching(self) -> bool:
        """Whether somebody looks after a worker."""
        return self._task is not None and not self._closing

    @property
    def outage(self) -> float:
        """Seconds until a worker is there, by what the last one took to load; 0 where one is."""
        if self.up:
            return 0.0
        return max(self._took - (self._watchdog.loading if self.worker else 0.0), 0.0)

    def launch(self) -> None:
        """Start a worker now: it loads while the rest of the server comes up."""
        if self.worker is None:
            self._watchdog = Watchdog(self._upkeep)
            self.worker = self._start(self._load)

    def watch(self) -> None:
        """Start to supervise a worker."""
        self.launch()
        self._task = asyncio.create_task(self._supervise())
        self._task.add_done_callback(self._ended)

    def send(self, command: Command) -> None:
        """Say something to the worker, if there is one."""
        if self.worker is not None:
            self.worker.send(command)

    def retire(self) -> None:
        """Start no other worker when this one dies."""
        self._closing = True

    async def close(self) -> None:
        """Stop the worker for good; a hung one is killed after a few ticks' time."""
        self.retire()
        if self.worker is not None:
            self.worker.send(Stop())
            await self.worker.end(self._grace)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _supervise(self) -> None:
        while not self._closing and self.fault is None:
            try:
                self.launch()
            except OSError as error:  # no processes, files or memory to be had, just now
                log.error("no worker can be started: %s", error)
                loaded = False
            else:
                loaded = await self._live()
            self._failures = 0 if loaded else self._failures + 1
            if self.fault is None:
                await asyncio.sleep(_pause(self._failures))
        if self.fault is not None:
            self._buried()

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
        if not self._closing and self.fault is None:
            log.error("the worker died (status %s)", status)
            if not loaded:
                self._blame(self._watchdog)
            self.restarts += 1
            self._buried()
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
                log.error("the worker %s; it is killed", watchdog.verdict)
                worker.process.kill()
                return
        await reading

    def _listen(self, event: Event) -> None:
        if isinstance(event, Loading):
            self._time_loading(event.model)
            self._watchdog.opening, self._watchdog.fetching = event.model, event.fetching
            return
        if isinstance(event, LeftOut):
            self._watchdog.opening = ""
            self._leave_out(event.model, event.reason)
            return
        if isinstance(event, Ready):
            self._time_loading("")
            self._welcome([info.name for info in event.models])
            self._took, self._watchdog.tick = self._watchdog.loading, 0.0
            self._allow(info.costs for info in event.models)
        elif isinstance(event, Progress):
            self._allow(lane.costs for lane in event.lanes if lane.costs)
        self._handle(event)

    def _time_loading(self, model: str) -> None:
        """Note that a worker that is not up opens this model now, and no other any more."""
        before, now = self._watchdog.opening, time.monotonic()
        if self.up or model == before:
            return
        if before:
            self.load_seconds[before] = now - self._opened
        self._opened = now

    def _allow(self, costs: Iterable[Costs]) -> None:
        """Let ticks take as long as these do, before a worker is taken for hung."""
        slowest = max((each.buckets[-1].seconds for each in costs), default=0.0)
        tick = self._watchdog.tick = max(self._watchdog.tick or 0.0, slowest)
        self._grace = max(_GRACE_SECONDS, _GRACE_TICKS * tick)

    def _welcome(self, loaded: Sequence[str]) -> None:
        """A worker has loaded these models, the default first."""
        self.up = self._served = True
        self._tries.clear()
        self.failed = {name: why for name, why in self.failed.items() if name not in loaded}
        if self.failed and (first := next(iter(self._models))) not in loaded:
            log.warning("requests that name no model get %s instead of %s", loaded[0], first)

    def _blame(self, watchdog: Watchdog) -> None:
        """A worker died or hung while it loaded: the model it was at may be the reason."""
        model = watchdog.opening
        self._tries[model] += 1
        tries = self._tries[model]
        if model and (watchdog.overdue or tries >= _TRIES):
            died = f"the worker died {tries} times while loading it"
            self._leave_out(model, f"the worker {watchdog.verdict}" if watchdog.verdict else died)
        elif tries >= _TRIES and not self._served:
            self._give_up(f"the worker died {tries} times while loading")

    def _leave_out(self, model: str, reason: str) -> None:
        """Go on without a model, unless nothing would be left or all are required.

        If a worker has served before and no model is left, all of them are tried again.
        """
        reason = one_line(reason)
        log.error("model %s is left out: %s", model, reason)
        self.failed[model] = reason.replace(self._models[model] or model, model)  # no path of ours
        rest = {name: path for name, path in self._load.models.items() if name != model}
        self._load = msgspec.structs.replace(self._load, models=rest or self._models)
        if rest:
            self._failures = 0
        self._handle(LeftOut(model, self.failed[model]))
        if self._upkeep.require_all or not (rest or self._served):
            failures = "; ".join(f"{name}: {why}" for name, why in self.failed.items())
            self._give_up(f"models do not load: {failures}" if len(self._models) > 1 else reason)

    def _give_up(self, reason: str) -> None:
        self.fault = reason
        if self.worker is not None:
            self.worker.process.kill()
        self.refused()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Nobody looks after the worker any more: as it should be, unless it is for a bug."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.critical("the worker's supervision failed", exc_info=error)
            self.up = False
            self._give_up("the worker's supervision failed; the log says why")
            self._buried()


def _pause(failures: int) -> float:
    """Seconds before a worker is started after so many that did not load."""
    return min(2.0 ** min(failures, 10) - 1, _LONGEST_PAUSE)
