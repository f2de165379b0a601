"""The server's side of the engine: submit, follow, await and cancel requests.

The worker is a separate process. When it dies, a new one is started and every unfinished request is
sent again, in order. Its seed fixes its pixels, so clients only see a longer wait.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence

from app.engine.costs import Costs
from app.engine.errors import DeadlineExceeded, EngineUnavailable, GenerationFailed
from app.engine.job import Request
from app.engine.ledger import Ledger, Limits
from app.engine.model_info import LaneId, ModelInfo, Models
from app.engine.pending import Pending, Watch
from app.engine.process import WorkerProcess
from app.engine.results import Moved, Preview, Queued, Result
from app.engine.stats import Stats
from app.engine.supervisor import Supervisor
from app.engine.watchdog import Upkeep
from app.engine.wire import (
    Admitted,
    Cancel,
    Cancelled,
    Done,
    Event,
    Failed,
    LeftOut,
    Load,
    Progress,
    Ready,
    Shown,
    Submit,
)

log = logging.getLogger(__name__)

_SOON = 5  # seconds after which to try again, while models load
_DRAIN_SECONDS = 0.05  # seconds between two checks whether all is done
_PLACE_SECONDS = 1.0  # seconds between reports of places: each wakes every waiting client


class EngineClient:
    """Hands requests to the worker and their images back. One event loop uses it."""

    def __init__(
        self,
        load: Load,
        limits: Limits,
        start: Callable[[Load], WorkerProcess] = WorkerProcess,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._load, self._ledger = load, Ledger(load, limits)
        self._ids = itertools.count(1)
        self._ends = math.inf  # when the server stops; time.monotonic()
        self._news = asyncio.Event()  # set briefly when requests may be taken, or never will be
        self.supervisor = Supervisor(load, start, self._handle, self._bury, upkeep or Upkeep())

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The loaded models by name, the default first; empty until they are loaded."""
        return self._ledger.models

    @property
    def failed(self) -> Mapping[str, str]:
        """The models that did not load, by name, and the reasons."""
        return self.supervisor.failed

    @property
    def stats(self) -> Stats:
        """What was done since the server started."""
        return self._ledger.stats

    @property
    def ready(self) -> bool:
        """Whether a worker is there and warm."""
        return self.supervisor.up and self.accepting

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: ready, or about to be again."""
        return self.refusal is None

    @property
    def refusal(self) -> str | None:
        """Why no requests are taken; None if they are."""
        if self._ends < math.inf:
            return "the server is stopping"
        if self.supervisor.fault is not None or self.models:
            return self.supervisor.fault
        failures = (f"{name}: {reason}" for name, reason in self.failed.items())
        return "; ".join(["the models are not loaded", *failures])

    @property
    def loading(self) -> bool:
        """Whether requests are not taken yet, but will be."""
        hopeless = self._ends < math.inf or self.supervisor.fault is not None
        return not self.models and not hopeless and self.supervisor.watching

    @property
    def wanted(self) -> Sequence[str]:
        """The names of the models that should be loaded."""
        return tuple(self._load.models)

    @property
    def timeout(self) -> float:
        """The deadline in seconds of requests that name none."""
        return self._ledger.limits.seconds

    @property
    def jobs(self) -> int:
        """Requests waiting or running."""
        return len(self._ledger.requests)

    def costs(self, lane: LaneId) -> Costs:
        """What ticks of a lane cost, as it learned from those it made; see `ModelInfo.lane`."""
        return self._ledger.costs(lane)

    def rows(self, info: ModelInfo) -> int:
        """The most UNet evaluations per tick of this model at its own size."""
        return self._load.rows or self.costs(info.lane).best.rows

    async def start(self) -> None:
        """Start to supervise a worker."""
        self.supervisor.watch()

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

    def _tell(self) -> None:
        """Wake whatever waits to learn whether requests are taken."""
        self._news.set()
        self._news.clear()

    async def drain(self, seconds: float) -> None:
        """Take no more requests, and finish those that can be done within `seconds`.

        Requests with a longer forecast fail at once with `EngineUnavailable`; what is left at the
        end fails then. If called again, the shorter time counts.
        """
        self._ends = min(self._ends, time.monotonic() + seconds)
        self._tell()
        self._turn_away()
        while self.jobs and (left := self._ends - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _DRAIN_SECONDS))
        self._fail_all("the server is stopping; there was no time left to finish this request")

    async def close(self) -> None:
        """Fail the remaining requests, and stop the worker."""
        self._ends = -math.inf
        self._tell()
        self._fail_all("the engine stopped")
        await self.supervisor.close()

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
            pending = self._submit(request)
        else:
            self.stats.shared += 1
        pending.waiters += 1
        if watch:
            pending.watches.append(watch)
            watch(self._place(pending))
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
                self._abandon(pending)
        queue = max(pending.began - asked, 0.0)
        denoise = max(time.monotonic() - asked - queue - done.decoding, 0.0)
        return Result(done.images, queue, denoise, done.decoding)

    def _place(self, pending: Pending) -> Queued:
        """Its place in the queue, if it waits."""
        found = next(self._ledger.places(lambda other: other is pending), None)
        place = found[1] if found else Queued(0, 0.0)
        pending.place, pending.placed = place.position, time.monotonic()
        return place

    def _submit(self, request: Request) -> Pending:
        answer = asyncio.get_running_loop().create_future()
        pending = Pending(next(self._ids), request, request.params.work, answer)
        self._ledger.add(pending)
        if self.supervisor.up and not self._ledger.suspects:
            self._send(pending)
        return pending

    def _send_waiting(self) -> None:
        """Send the unsent requests; those in flight at two deaths are sent alone, one by one."""
        if not self.supervisor.up:
            return
        requests = self._ledger.requests.values()
        waiting = [pending for pending in requests if not pending.sent]
        if suspects := list(self._ledger.suspects.values()):
            waiting = [] if any(pending.sent for pending in requests) else suspects[:1]
        for pending in waiting:
            self._send(pending)

    def _send(self, pending: Pending) -> None:
        pending.sent = True
        self.supervisor.send(Submit(pending.id, pending.request))

    def _abandon(self, pending: Pending) -> None:
        """End a request that nobody waits for any more."""
        pending.answer.cancel()
        if pending.sent:
            self.supervisor.send(Cancel(pending.id))
        self._forget(pending)

    def _forget(self, pending: Pending) -> None:
        self._ledger.forget(pending)
        if pending.suspect:  # others waited for its end
            self._send_waiting()

    def _handle(self, event: Event) -> None:
        """Handle an event of the worker."""
        if isinstance(event, Progress):
            self._note(event)
        elif isinstance(event, Ready):
            self._ledger.models = Models(event.models, self.failed)
            self.stats.renew()
            self._tell()
            self._send_waiting()
        elif isinstance(event, Admitted):
            for job_id in event.job_ids:
                if (pending := self._ledger.requests.get(job_id)) and not pending.riding:
                    pending.riding, pending.began = True, time.monotonic()
        elif isinstance(event, Shown):
            self._show(event.job_id, event.previews)
        elif isinstance(event, Cancelled):
            self.stats.cancelled += 1
            self.stats.cancel_ticks = max(self.stats.cancel_ticks, event.ticks)
        elif isinstance(event, LeftOut):
            self._leave_out(event)
        elif isinstance(event, Done | Failed):
            self._answer(event)

    def _leave_out(self, event: LeftOut) -> None:
        """Forget a model that was left out, and refuse its requests."""
        loaded = [info for name, info in self.models.items() if name != event.model]
        self._ledger.models = Models(loaded, self.failed)
        for pending in list(self._ledger.requests.values()):
            if pending.params.model == event.model:
                self._refuse(pending, f"model {event.model!r} does not load: {event.reason}")

    def _answer(self, event: Done | Failed) -> None:
        pending = self._ledger.requests.get(event.job_id)
        if pending is None:
            return
        if isinstance(event, Done):
            pending.answer.set_result(event)
        else:
            pending.answer.set_exception(GenerationFailed(event.reason))
        self._forget(pending)

    def _show(self, job_id: int, previews: Sequence[Preview]) -> None:
        """Pass previews on, except those that were passed on before a worker died."""
        if pending := self._ledger.requests.get(job_id):
            for preview in previews:
                if preview.step > pending.shown.get(preview.image, 0):
                    pending.shown[preview.image] = preview.step
                    pending.tell(preview)

    def _note(self, progress: Progress) -> None:
        now = time.monotonic()
        self._ledger.heard(progress)
        for job_id, previews in progress.previews.items():
            self._show(job_id, previews)
        for job_id, made in progress.evaluations.items():
            if pending := self._ledger.requests.get(job_id):
                self._ledger.note(pending, made)
                if made > pending.told:
                    pending.told = made
                    pace = (now - pending.began) / made
                    left = pace * (pending.all_evaluations - made)
                    pending.tell(Moved(made, pending.all_evaluations, left))

        def due(pending: Pending) -> bool:
            return bool(pending.watches) and now - pending.placed >= _PLACE_SECONDS

        for pending, place in self._ledger.places(due):
            if pending.place != place.position:
                pending.place, pending.placed = place.position, now
                pending.tell(place)

    def _bury(self) -> None:
        """The worker died: send its requests again, except a request that caused its death."""
        if self.supervisor.fault is not None:
            self._tell()
            self._fail_all(self.supervisor.fault)
        for pending in self._ledger.bury():
            told = "request %s was running alone at two deaths of the worker, and fails: %s"
            log.error(told, pending.asker.request_id, pending.params)
            pending.answer.set_exception(
                GenerationFailed("the worker died each time it ran this request")
            )
            self._ledger.forget(pending)
        if self._ends < math.inf:
            self._turn_away()

    def _turn_away(self) -> None:
        """Fail the requests that cannot be done before the server stops; the rest is faster."""
        left = self._ends - time.monotonic()
        outage = self.supervisor.outage
        for pending, seconds in list(self._ledger.late(left - outage)):
            told = f"the server stops in {max(left, 0):.3g} s; this request would take about "
            self._refuse(pending, f"{told}{outage + seconds:.3g} s")
        if not self.jobs:
            self.supervisor.retire()

    def _refuse(self, pending: Pending, reason: str) -> None:
        """End a request, wherever it is, for a reason outside it."""
        if not pending.answer.done():
            pending.answer.set_exception(EngineUnavailable(reason))
        if pending.sent:
            self.supervisor.send(Cancel(pending.id))
        self._forget(pending)

    def _fail_all(self, reason: str) -> None:
        for pending in list(self._ledger.requests.values()):
            self._refuse(pending, reason)
