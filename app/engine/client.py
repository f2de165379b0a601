"""The server's side of the engine: submit, follow, await and cancel requests.

The worker is a process of its own. When it dies it is started anew and every request that had not
ended is sent again, in order: its seed fixes its pixels, so clients see a longer wait and no more.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping, Sequence

from app.engine.job import (
    NOBODY,
    Asker,
    DeadlineExceeded,
    EngineUnavailable,
    GenerationFailed,
    ModelInfo,
    Moved,
    Params,
    Preview,
    Queued,
    Result,
)
from app.engine.ledger import Ledger, Limits, Stats
from app.engine.request import Request, Watch
from app.engine.supervisor import Supervisor, WorkerProcess
from app.engine.wire import (
    Admitted,
    Cancel,
    Cancelled,
    Done,
    Event,
    Failed,
    Load,
    Progress,
    Ready,
    Refused,
    Shown,
    Submit,
)

log = logging.getLogger(__name__)

_SUSPECT, _CULPRIT = 2, 4  # deaths in a row that a request was in flight at
_MOST_SLOWNESS = 10.0  # a stall is no pace
_PLACE_SECONDS = 1.0  # between two places told: all who wait move up at once, and each is woken


class EngineClient:
    """Hands requests to the worker and their images back. One event loop uses it."""

    def __init__(
        self, load: Load, limits: Limits, start: Callable[[Load], WorkerProcess] = WorkerProcess
    ) -> None:
        self._load, self._ledger = load, Ledger(load, limits)
        self._ids = itertools.count(1)
        self._closing = False
        self.supervisor = Supervisor(load, start, self._handle, self._bury)

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """Those that are loaded, by name; none before they are."""
        return self._ledger.models

    @property
    def stats(self) -> Stats:
        """What was done since the server started."""
        return self._ledger.stats

    @property
    def ready(self) -> bool:
        """Whether a worker is there and warm."""
        return self.supervisor.up and not self._closing

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: ready, or about to be again."""
        return bool(self.models) and not self._closing and self.supervisor.fault is None

    @property
    def jobs(self) -> int:
        """Requests waiting or running."""
        return len(self._ledger.requests)

    def rows(self, info: ModelInfo) -> int:
        """UNet evaluations a tick of this model has at most."""
        return self._load.rows or info.costs.best.rows

    async def start(self) -> None:
        """Look after a worker from now on."""
        self.supervisor.watch()

    async def close(self) -> None:
        """Stop the worker; whatever it still held fails."""
        self._closing = True
        await self.supervisor.close()
        self._fail_all("the engine stopped")

    async def generate(
        self,
        params: Params,
        *,
        asker: Asker = NOBODY,
        priority: int = 0,
        timeout: float | None = None,
        previews: int = 0,
        watch: Watch | None = None,
    ) -> Result:
        """The images of a request, in at most `timeout` seconds, or the limit where absent.

        `watch` is told what becomes of it meanwhile: `Queued` at once and `Moved` in step order, a
        `Preview` of every image after each of `previews` steps, evenly spaced. Cancelling the
        caller frees its slots after at most one more tick. Requests with equal parameters that are
        in flight at once are computed once, unless a later one is more urgent, wants previews or
        would wait longer for another client's than for its own.

        Raises:
            EngineUnavailable: not loaded, or stopped before it was done.
            EngineBusy: no room for it, or too much before it for it to be done in time.
            DeadlineTooShort, DeadlineExceeded: not to be done in time; not done in time.
            GenerationFailed: it failed on the way.
        """
        if not self.accepting:
            raise EngineUnavailable(self.supervisor.fault or "the models are not loaded")
        timeout = self._ledger.limits.seconds if timeout is None else timeout
        asked = time.monotonic()
        request = self._ledger.equal(params, asker.client)
        if request is None or request.priority < priority or previews:
            work = params.work
            self._ledger.admit(params, work, priority, timeout, asker.client)
            request = self._submit(asker, params, work, priority, previews)
        else:
            self.stats.shared += 1
        request.waiters += 1
        if watch:
            request.watches.append(watch)
            watch(self._place(request))
        try:
            async with asyncio.timeout(timeout):
                done = await asyncio.shield(request.answer)
        except TimeoutError as error:
            raise DeadlineExceeded(f"not done within {timeout:g} seconds") from error
        finally:
            request.waiters -= 1
            if watch:
                request.watches.remove(watch)
            if not request.waiters and not request.answer.done():
                self._abandon(request)
        queue = max(request.began - asked, 0.0)
        denoise = max(time.monotonic() - asked - queue - done.decoding, 0.0)
        return Result(done.images, queue, denoise, done.decoding)

    def _place(self, request: Request) -> Queued:
        """Where it is in the queue, if it waits at all."""
        found = next(self._ledger.places(lambda other: other is request), None)
        place = found[1] if found else Queued(0, 0.0)
        request.place, request.placed = place.position, time.monotonic()
        return place

    def _submit(
        self, asker: Asker, params: Params, work: int, priority: int, previews: int
    ) -> Request:
        answer = asyncio.get_running_loop().create_future()
        request = Request(next(self._ids), asker, params, work, priority, previews, answer)
        self._ledger.add(request)
        self._send_waiting()
        return request

    def _send_waiting(self) -> None:
        """Send what was not sent; after two deaths, those in flight at both alone, one by one."""
        if not self.supervisor.up:
            return
        requests = self._ledger.requests.values()
        suspects = [request for request in requests if request.deaths >= _SUSPECT]
        waiting = [request for request in requests if not request.sent]
        if suspects:
            waiting = [] if any(request.sent for request in requests) else suspects[:1]
        for request in waiting:
            request.sent = True
            self.supervisor.send(
                Submit(
                    request.id, request.params, request.priority, request.previews, request.client
                )
            )

    def _abandon(self, request: Request) -> None:
        """Nobody waits for it any more."""
        request.answer.cancel()
        if request.sent:
            self.supervisor.send(Cancel(request.id))
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self._ledger.forget(request)
        if request.deaths >= _SUSPECT:  # others waited for its end
            self._send_waiting()

    def _handle(self, event: Event) -> None:
        """Take note of what the worker says."""
        if isinstance(event, Progress):
            self._note(event)
        elif isinstance(event, Ready):
            self._ledger.models = {info.name: info for info in event.models}
            self.stats.slowness = 1.0
            self._send_waiting()
        elif isinstance(event, Admitted):
            for job_id in event.job_ids:
                if (request := self._ledger.requests.get(job_id)) and not request.riding:
                    request.riding, request.began = True, time.monotonic()
        elif isinstance(event, Shown):
            self._show(event.job_id, event.previews)
        elif isinstance(event, Cancelled):
            self.stats.cancelled += 1
            self.stats.cancel_ticks = max(self.stats.cancel_ticks, event.ticks)
        elif not isinstance(event, Refused):
            self._answer(event)

    def _answer(self, event: Done | Failed) -> None:
        request = self._ledger.requests.get(event.job_id)
        if request is None:
            return
        if isinstance(event, Done):
            request.answer.set_result(event)
        else:
            request.answer.set_exception(GenerationFailed(event.reason))
        self._forget(request)

    def _show(self, job_id: int, previews: Sequence[Preview]) -> None:
        """Tell of previews, but not of those that were told before a worker died."""
        if request := self._ledger.requests.get(job_id):
            for preview in previews:
                if preview.step > request.lost:
                    request.tell(preview)

    def _note(self, progress: Progress) -> None:
        stats, now = self.stats, time.monotonic()
        stats.ticks += progress.ticks
        stats.rows += progress.rows
        stats.padding += progress.padding
        stats.running = progress.running
        if progress.expected:
            share = min(progress.seconds, 1.0)  # a second's worth of news counts in full
            news = min(progress.seconds / progress.expected, _MOST_SLOWNESS)
            stats.slowness += share * (news - stats.slowness)
        for job_id, previews in progress.previews.items():
            self._show(job_id, previews)
        for job_id, steps in progress.steps.items():
            if request := self._ledger.requests.get(job_id):
                self._ledger.note(request, steps)
                if steps > request.told:
                    request.told = steps
                    pace = (now - request.began) / steps
                    left = pace * (request.all_steps - steps)
                    request.tell(Moved(steps, request.all_steps, left))

        def due(request: Request) -> bool:
            return bool(request.watches) and now - request.placed >= _PLACE_SECONDS

        for request, place in self._ledger.places(due):
            if request.place != place.position:
                request.place, request.placed = place.position, now
                request.tell(place)

    def _bury(self) -> None:
        """Count a death for those who were riding; the one that causes every one fails."""
        self.stats.running = 0
        for request in list(self._ledger.requests.values()):
            if request.riding:
                request.deaths += 1
            elif request.deaths < _SUSPECT:
                request.deaths = 0
            request.lost = max(request.lost, -(-request.told // request.params.n))
            request.sent = request.riding = False
            self._ledger.note(request, 0)
            if request.deaths >= _CULPRIT:
                log.error("it was alone at two deaths, and fails: %s", request.params)
                request.answer.set_exception(GenerationFailed("the worker died of it"))
                self._forget(request)
        if self.supervisor.fault is not None:
            self._fail_all(self.supervisor.fault)

    def _fail_all(self, reason: str) -> None:
        for request in list(self._ledger.requests.values()):
            if not request.answer.done():
                request.answer.set_exception(EngineUnavailable(reason))
            self._forget(request)
