"""The server's side of the engine: submit, follow, await and cancel requests.

The worker is a process of its own. When it dies it is started anew and every request that had not
ended is sent again, in order: its seed fixes its pixels, so clients see a longer wait and no more.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from app.engine.costs import Costs, Forecast, forecast, solo
from app.engine.costs import Load as Ahead
from app.engine.job import (
    LONG,
    DeadlineExceeded,
    DeadlineTooShort,
    EngineBusy,
    EngineUnavailable,
    GenerationFailed,
    ModelInfo,
    Moved,
    Params,
    Preview,
    Queued,
    Result,
    Update,
)
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

_MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on anything longer
_SUSPECT, _CULPRIT = 2, 4  # deaths in a row that a request was in flight at
_MOST_SLOWNESS = 10.0  # a stall is no pace

Watch = Callable[[Update], None]


@dataclass(eq=False)
class _Request:
    """What is asked of the worker, once, for all who ask it: `waiters` of them."""

    id: int
    params: Params
    work: int  # UNet evaluations, all in all
    priority: int
    previews: int
    answer: "asyncio.Future[Done]"
    waiters: int = 0
    watches: list[Watch] = field(default_factory=list)
    sent: bool = False
    riding: bool = False
    began: float = 0.0  # when its first step did; time.monotonic()
    deaths: int = 0
    steps: int = 0  # made so far, by all images together
    told: int = 0  # the most of them that was told, in this life of the worker or another
    lost: int = 0  # made by each image when a worker died: previews up to there were told

    @property
    def rows_left(self) -> int:
        """UNet evaluations still to be made, about."""
        return self.work - self.work * self.steps // self.all_steps

    @property
    def all_steps(self) -> int:
        """Steps of all images together."""
        return self.params.steps * self.params.n

    def tell(self, update: Update) -> None:
        """Tell all who watch."""
        for watch in self.watches:
            watch(update)


@dataclass
class Stats:
    """What the engine did since the server started; ticks, rows and padding are counts."""

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    running: int = 0  # slots taken at the last report
    shared: int = 0  # requests that another one, equal and in flight, answered
    cancelled: int = 0
    cancel_ticks: int = 0  # at most, from a client's leaving to its slots being free
    slowness: float = 1.0  # of late: what ticks took, by what they took when measured alone


@dataclass(frozen=True)
class Limits:
    """What may wait and run at once, requests and UNet evaluations, and for how long at most."""

    jobs: int
    work: int
    seconds: float  # for requests that do not say


class EngineClient:
    """Hands requests to the worker and their images back. One event loop uses it."""

    def __init__(
        self, load: Load, limits: Limits, start: Callable[[Load], WorkerProcess] = WorkerProcess
    ) -> None:
        self._load, self._limits = load, limits
        self._requests: dict[int, _Request] = {}
        self._equal: dict[Params, _Request] = {}
        self._ids = itertools.count(1)
        self._closing = False
        self.supervisor = Supervisor(load, start, self._handle, self._bury)
        self.models: Mapping[str, ModelInfo] = {}
        self.stats = Stats()

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
        return len(self._requests)

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
        priority: int = 0,
        timeout: float | None = None,
        previews: int = 0,
        watch: Watch | None = None,
    ) -> Result:
        """The images of a request, in at most `timeout` seconds, or the limit where absent.

        `watch` is told what becomes of it meanwhile: `Queued` at once and `Moved` in step order, a
        `Preview` of every image after each of `previews` steps, evenly spaced. Cancelling the
        caller frees its slots after at most one more tick. Requests with equal parameters that are
        in flight at once are computed once, unless a later one is more urgent or wants previews.

        Raises:
            EngineUnavailable: not loaded, or stopped before it was done.
            EngineBusy: no room for it, or too much before it for it to be done in time.
            DeadlineTooShort, DeadlineExceeded: not to be done in time; not done in time.
            GenerationFailed: it failed on the way.
        """
        if not self.accepting:
            raise EngineUnavailable(self.supervisor.fault or "the models are not loaded")
        timeout = self._limits.seconds if timeout is None else timeout
        asked = time.monotonic()
        request = self._equal.get(params)
        if request is None or request.priority < priority or previews:
            work = params.work
            self._admit(params, work, priority, timeout)
            request = self._submit(params, work, priority, previews)
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

    def expect(self, params: Params, work: int, priority: int) -> Forecast:
        """Seconds until a request of so much work would start and end, by what lies before it.

        Long requests do not lie before a short one, nor do those of lower priority.
        """
        ahead = [
            request
            for request in self._requests.values()
            if request.params.model == params.model
            and request.priority >= priority
            and (params.steps > LONG or request.params.steps <= LONG)
        ]
        rows = sum(request.rows_left for request in ahead)
        return forecast(
            self._costs(params.model),
            Ahead(sum(request.params.n for request in ahead), rows),
            self._load.slots,
            steps=params.steps,
            images=params.n,
            rows=work,
            slowness=self.stats.slowness,
        )

    def _costs(self, model: str) -> Costs:
        """What ticks of a model cost, of those that the settings allow."""
        costs, most = self.models[model].costs, self._load.rows
        return costs if most is None else costs.up_to(most)

    def _admit(self, params: Params, work: int, priority: int, timeout: float) -> None:
        """Refuse what has no room, or cannot be done in time."""
        costs = self._costs(params.model)
        alone = solo(costs, steps=params.steps, rows=work)
        if alone > timeout:
            raise DeadlineTooShort(
                f"timeout: {timeout:g} s; this takes about {alone:.2g} s with nothing else to do"
            )
        expected = self.expect(params, work, priority)
        if self._requests and expected.end > timeout:
            raise EngineBusy(
                f"it would take about {expected.end:.3g} s now; the timeout is {timeout:g} s",
                _seconds(expected.end - timeout),
            )
        waiting = sum(request.rows_left for request in self._requests.values())
        if len(self._requests) >= self._limits.jobs or waiting + work > self._limits.work:
            raise EngineBusy(
                f"{len(self._requests)} requests of {waiting} UNet evaluations are waiting or "
                f"running; the limits are {self._limits.jobs} and {self._limits.work}",
                _seconds(max(expected.wait, waiting / costs.best.rate / 2)),
            )

    def _place(self, request: _Request) -> Queued:
        """How many requests come before one, and how long it may be until its first step."""
        if request.riding:
            return Queued(0, 0.0)
        before = [
            other
            for other in self._requests.values()
            if other.params.model == request.params.model
            and (-other.priority, other.id) < (-request.priority, request.id)
        ]
        wait = forecast(
            self._costs(request.params.model),
            Ahead(sum(o.params.n for o in before), sum(o.rows_left for o in before)),
            self._load.slots,
            steps=request.params.steps,
            images=1,
            rows=request.work // request.params.n,
            slowness=self.stats.slowness,
        ).wait
        return Queued(sum(not other.riding for other in before), wait)

    def _submit(self, params: Params, work: int, priority: int, previews: int) -> _Request:
        answer = asyncio.get_running_loop().create_future()
        request = _Request(next(self._ids), params, work, priority, previews, answer)
        self._requests[request.id] = self._equal[params] = request
        self._send_waiting()
        return request

    def _send_waiting(self) -> None:
        """Send what was not sent; after two deaths, those in flight at both alone, one by one."""
        if not self.supervisor.up:
            return
        requests = self._requests.values()
        suspects = [request for request in requests if request.deaths >= _SUSPECT]
        waiting = [request for request in requests if not request.sent]
        if suspects:
            waiting = [] if any(request.sent for request in requests) else suspects[:1]
        for request in waiting:
            request.sent = True
            self.supervisor.send(
                Submit(request.id, request.params, request.priority, request.previews)
            )

    def _abandon(self, request: _Request) -> None:
        """Nobody waits for it any more."""
        request.answer.cancel()
        if request.sent:
            self.supervisor.send(Cancel(request.id))
        self._forget(request)

    def _forget(self, request: _Request) -> None:
        self._requests.pop(request.id, None)
        if self._equal.get(request.params) is request:
            del self._equal[request.params]
        self._send_waiting()

    def _handle(self, event: Event) -> None:
        """Take note of what the worker says."""
        if isinstance(event, Progress):
            self._note(event)
        elif isinstance(event, Ready):
            self.models = {info.name: info for info in event.models}
            self.stats.slowness = 1.0
            self._send_waiting()
        elif isinstance(event, Admitted):
            for job_id in event.job_ids:
                if (request := self._requests.get(job_id)) and not request.riding:
                    request.riding, request.began = True, time.monotonic()
        elif isinstance(event, Shown):
            self._show(event.job_id, event.previews)
        elif isinstance(event, Cancelled):
            self.stats.cancelled += 1
            self.stats.cancel_ticks = max(self.stats.cancel_ticks, event.ticks)
        elif not isinstance(event, Refused):
            self._answer(event)

    def _answer(self, event: Done | Failed) -> None:
        request = self._requests.get(event.job_id)
        if request is None:
            return
        if isinstance(event, Done):
            request.answer.set_result(event)
        else:
            request.answer.set_exception(GenerationFailed(event.reason))
        self._forget(request)

    def _show(self, job_id: int, previews: Sequence[Preview]) -> None:
        """Tell of previews, but not of those that were told before a worker died."""
        if request := self._requests.get(job_id):
            for preview in previews:
                if preview.step > request.lost:
                    request.tell(preview)

    def _note(self, progress: Progress) -> None:
        stats = self.stats
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
            if request := self._requests.get(job_id):
                request.steps = steps
                if steps > request.told:
                    request.told = steps
                    pace = (time.monotonic() - request.began) / steps
                    left = pace * (request.all_steps - steps)
                    request.tell(Moved(steps, request.all_steps, left))
        for request in self._requests.values():
            if request.watches and not request.riding:
                request.tell(self._place(request))

    def _bury(self) -> None:
        """Count a death for those who were riding; the one that causes every one fails."""
        self.stats.running = 0
        for request in list(self._requests.values()):
            if request.riding:
                request.deaths += 1
            elif request.deaths < _SUSPECT:
                request.deaths = 0
            request.lost = max(request.lost, -(-request.told // request.params.n))
            request.sent = request.riding = False
            request.steps = 0
            if request.deaths >= _CULPRIT:
                log.error("it was alone at two deaths, and fails: %s", request.params)
                request.answer.set_exception(GenerationFailed("the worker died of it"))
                self._forget(request)
        if self.supervisor.fault is not None:
            self._fail_all(self.supervisor.fault)

    def _fail_all(self, reason: str) -> None:
        for request in list(self._requests.values()):
            if not request.answer.done():
                request.answer.set_exception(EngineUnavailable(reason))
            self._forget(request)


def _seconds(wait: float) -> int:
    """Whole seconds to come back after."""
    return min(max(math.ceil(wait), 1), _MAX_RETRY_AFTER)
