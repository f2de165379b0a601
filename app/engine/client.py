"""The server's side of the engine: submit, await, cancel, and keep a worker alive.

The worker is a process of its own. When it dies it is started anew and every request that had not
ended is sent again, in order: its seed fixes its pixels, so clients see a longer wait and no more.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

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
    Params,
    Pixels,
)
from app.engine.supervisor import WorkerProcess
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
    Stop,
    Submit,
)

log = logging.getLogger(__name__)

_MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on anything longer
_SUSPECT, _CULPRIT = 2, 4  # deaths in a row that a request was in flight at
_FIRST_STARTS = 3  # tries to load at all, where the worker dies of it without a reason
_MOST_SLOWNESS = 10.0  # a stall is no pace
_LONGEST_PAUSE = 30.0  # seconds between starts of a worker that dies while it loads


@dataclass(eq=False)
class _Request:
    """What is asked of the worker, once, for all who ask it: `waiters` of them."""

    id: int
    params: Params
    work: int  # UNet evaluations, all in all
    priority: int
    answer: "asyncio.Future[tuple[Pixels, ...]]"
    waiters: int = 0
    sent: bool = False
    riding: bool = False
    deaths: int = 0
    steps: int = 0  # made so far, by all images together

    @property
    def rows_left(self) -> int:
        """UNet evaluations still to be made, about."""
        return self.work - self.work * self.steps // (self.params.steps * self.params.n)


@dataclass
class Stats:
    """What the engine did since the server started; ticks, rows and padding are counts."""

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    running: int = 0  # slots taken at the last report
    restarts: int = 0
    shared: int = 0  # requests that another one, equal and in flight, answered
    cancelled: int = 0
    cancel_ticks: int = 0  # at most, from a client's leaving to its slots being free
    slowness: float = 1.0  # of late: what ticks took, by what they took when measured alone
    worker_pid: int | None = None


@dataclass(frozen=True)
class Limits:
    """What may wait and run at once, requests and UNet evaluations, and for how long at most."""

    jobs: int
    work: int
    seconds: float  # for requests that do not say


class EngineClient:
    """Hands requests to the worker and their images back. One event loop uses it.

    `refused` is called when the models do not load and never have: a reason to stop the server.
    """

    def __init__(
        self, load: Load, limits: Limits, start: Callable[[Load], WorkerProcess] = WorkerProcess
    ) -> None:
        self._load, self._limits, self._start = load, limits, start
        self._worker: WorkerProcess | None = None
        self._loop: asyncio.Task[None] | None = None
        self._requests: dict[int, _Request] = {}
        self._equal: dict[Params, _Request] = {}
        self._ids = itertools.count(1)
        self._up = self._closing = False
        self.models: Mapping[str, ModelInfo] = {}
        self.stats = Stats()
        self.fault: str | None = None  # why no worker can be had
        self.refused: Callable[[], None] = lambda: None

    @property
    def ready(self) -> bool:
        """Whether a worker is there and warm."""
        return self._up and not self._closing

    @property
    def accepting(self) -> bool:
        """Whether requests are taken: ready, or about to be again."""
        return bool(self.models) and not self._closing and self.fault is None

    @property
    def jobs(self) -> int:
        """Requests waiting or running."""
        return len(self._requests)

    def rows(self, info: ModelInfo) -> int:
        """UNet evaluations a tick of this model has at most."""
        return self._load.rows or info.costs.best.rows

    def launch(self) -> None:
        """Start the worker now: it loads while the rest of the server comes up."""
        if self._worker is None:
            self._worker = self._start(self._load)

    async def start(self) -> None:
        """Look after a worker from now on."""
        self.launch()
        self._loop = asyncio.create_task(self._supervise())

    async def close(self) -> None:
        """Stop the worker; whatever it still held fails."""
        self._closing = True
        if self._worker is not None:
            self._worker.send(Stop())
            await self._worker.end()
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        self._fail_all("the engine stopped")

    async def generate(
        self, params: Params, *, priority: int = 0, timeout: float | None = None
    ) -> tuple[Pixels, ...]:
        """The images of a request, in at most `timeout` seconds, or the limit where absent.

        Cancelling the caller frees its slots after at most one more tick. Requests with equal
        parameters that are in flight at once are computed once, unless a later one is more urgent.

        Raises:
            EngineUnavailable: not loaded, or stopped before it was done.
            EngineBusy: no room for it, or too much before it for it to be done in time.
            DeadlineTooShort, DeadlineExceeded: not to be done in time; not done in time.
            GenerationFailed: it failed on the way.
        """
        if not self.accepting:
            raise EngineUnavailable(self.fault or "the models are not loaded")
        timeout = self._limits.seconds if timeout is None else timeout
        request = self._equal.get(params)
        if request is None or request.priority < priority:
            work = params.work
            self._admit(params, work, priority, timeout)
            request = self._submit(params, work, priority)
        else:
            self.stats.shared += 1
        request.waiters += 1
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(request.answer)
        except TimeoutError as error:
            raise DeadlineExceeded(f"not done within {timeout:g} seconds") from error
        finally:
            request.waiters -= 1
            if not request.waiters and not request.answer.done():
                self._abandon(request)

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

    def _submit(self, params: Params, work: int, priority: int) -> _Request:
        answer = asyncio.get_running_loop().create_future()
        request = _Request(next(self._ids), params, work, priority, answer)
        self._requests[request.id] = self._equal[params] = request
        self._send_waiting()
        return request

    def _send_waiting(self) -> None:
        """Send what was not sent; after two deaths, those in flight at both alone, one by one."""
        if not self._up or self._worker is None:
            return
        requests = self._requests.values()
        suspects = [request for request in requests if request.deaths >= _SUSPECT]
        waiting = [request for request in requests if not request.sent]
        if suspects:
            waiting = [] if any(request.sent for request in requests) else suspects[:1]
        for request in waiting:
            request.sent = True
            self._worker.send(Submit(request.id, request.params, request.priority))

    def _abandon(self, request: _Request) -> None:
        """Nobody waits for it any more."""
        request.answer.cancel()
        if request.sent and self._worker is not None:
            self._worker.send(Cancel(request.id))
        self._forget(request)

    def _forget(self, request: _Request) -> None:
        self._requests.pop(request.id, None)
        if self._equal.get(request.params) is request:
            del self._equal[request.params]
        self._send_waiting()

    async def _supervise(self) -> None:
        """Keep a worker; start it anew when it dies, later and later while it cannot load."""
        failures = 0
        while not self._closing and self.fault is None:
            try:
                self.launch()
            except OSError as error:  # no processes, files or memory to be had, just now
                failures += 1
                log.error("no worker can be started: %s", error)
                await asyncio.sleep(_pause(failures))
                continue
            worker = self._worker
            assert worker is not None
            self.stats.worker_pid = worker.process.pid
            await worker.attach()
            while (event := await worker.event()) is not None:
                self._handle(event)
            loaded, self._up = self._up, False
            status = await worker.end()
            self._worker, self.stats.worker_pid, self.stats.running = None, None, 0
            if self._closing or self.fault is not None:
                break
            failures = 0 if loaded else failures + 1
            log.error("the worker died (status %d) with %d requests", status, len(self._requests))
            self._bury()
            if not self.models and failures >= _FIRST_STARTS:
                self._give_up(f"the worker died {failures} times while loading")
            self.stats.restarts += 1
            await asyncio.sleep(_pause(failures))
        if self.fault is not None:
            self._fail_all(self.fault)

    def _handle(self, event: Event) -> None:
        """Take note of what the worker says."""
        if isinstance(event, Progress):
            self._note(event)
        elif isinstance(event, Ready):
            self.models = {info.name: info for info in event.models}
            self._up, self.stats.slowness = True, 1.0
            self._send_waiting()
        elif isinstance(event, Refused):
            if self.models:
                log.error("the models do not load any more: %s", event.reason)
            else:
                self._give_up(event.reason)
        elif isinstance(event, Admitted):
            for job_id in event.job_ids:
                if request := self._requests.get(job_id):
                    request.riding = True
        elif isinstance(event, Cancelled):
            self.stats.cancelled += 1
            self.stats.cancel_ticks = max(self.stats.cancel_ticks, event.ticks)
        else:
            self._answer(event)

    def _answer(self, event: Done | Failed) -> None:
        request = self._requests.get(event.job_id)
        if request is None:
            return
        if isinstance(event, Done):
            request.answer.set_result(event.images)
        else:
            request.answer.set_exception(GenerationFailed(event.reason))
        self._forget(request)

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
        for job_id, steps in progress.steps.items():
            if request := self._requests.get(job_id):
                request.steps = steps

    def _bury(self) -> None:
        """Count a death for those who were riding; the one that causes every one fails."""
        for request in list(self._requests.values()):
            if request.riding:
                request.deaths += 1
            elif request.deaths < _SUSPECT:
                request.deaths = 0
            request.sent = request.riding = False
            request.steps = 0
            if request.deaths >= _CULPRIT:
                log.error("it was alone at two deaths, and fails: %s", request.params)
                request.answer.set_exception(GenerationFailed("the worker died of it"))
                self._forget(request)

    def _give_up(self, reason: str) -> None:
        self.fault = reason
        self.refused()

    def _fail_all(self, reason: str) -> None:
        for request in list(self._requests.values()):
            if not request.answer.done():
                request.answer.set_exception(EngineUnavailable(reason))
            self._forget(request)


def _pause(failures: int) -> float:
    """Seconds before a worker is started after so many that did not load."""
    return min(2.0 ** min(failures, 10) - 1, _LONGEST_PAUSE)


def _seconds(wait: float) -> int:
    """Whole seconds to come back after."""
    return min(max(math.ceil(wait), 1), _MAX_RETRY_AFTER)
