"""What the engine was asked and has not ended: what lies before a request, and if it fits."""

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from app.engine.costs import Costs, Forecast, forecast, solo
from app.engine.costs import Load as Ahead
from app.engine.job import (
    LONG,
    DeadlineTooShort,
    EngineBusy,
    ModelInfo,
    Params,
    Queued,
    Update,
)
from app.engine.wire import Done, Load

_MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on anything longer

_SUSPECT, _CULPRIT = 2, 4  # deaths in a row that a request was in flight at

Watch = Callable[[Update], None]


@dataclass(eq=False)
class Request:
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
    place: int = -1  # in the queue, as told last
    told: int = 0  # the most of them that was told, in this life of the worker or another
    shown: dict[int, int] = field(default_factory=dict)  # by image, the last step it was shown at
    request_id: str = ""  # of HTTP, for the log

    @property
    def rows_left(self) -> int:
        """UNet evaluations still to be made, about."""
        return self.work - self.work * self.steps // self.all_steps

    @property
    def all_steps(self) -> int:
        """Steps of all images together."""
        return self.params.steps * self.params.n

    @property
    def suspect(self) -> bool:
        """Whether workers may die of it."""
        return self.deaths >= _SUSPECT

    @property
    def long(self) -> bool:
        """Whether it gives way to short ones."""
        return self.params.steps > LONG

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


class Ledger:
    """Requests waiting or running, in order of arrival."""

    def __init__(self, load: Load, limits: Limits) -> None:
        self._load, self.limits = load, limits
        self.models: Mapping[str, ModelInfo] = {}
        self.stats = Stats()
        self.requests: dict[int, Request] = {}
        self._equal: dict[Params, Request] = {}

    def equal(self, params: Params) -> Request | None:
        """The newest request for the same pixels."""
        return self._equal.get(params)

    def add(self, request: Request) -> None:
        """Take a request up."""
        self.requests[request.id] = self._equal[request.params] = request

    def forget(self, request: Request) -> None:
        """It has ended."""
        self.requests.pop(request.id, None)
        if self._equal.get(request.params) is request:
            del self._equal[request.params]

    def bury(self) -> list[Request]:
        """Count a worker's death against those who rode; the ones that caused every one.

        Where nobody rode, it is against all that it had taken up. None of them is sent now.
        """
        requests, self.stats.running = list(self.requests.values()), 0
        blamed = {r for r in requests if r.riding} or {r for r in requests if r.sent}
        for request in requests:
            if request in blamed:
                request.deaths += 1
            elif blamed and not request.suspect:
                request.deaths = 0
            request.sent = request.riding = False
            request.steps = 0
        return [request for request in requests if request.deaths >= _CULPRIT]

    def admit(self, params: Params, work: int, priority: int, timeout: float) -> None:
        """Refuse what has no room, or cannot be done in time.

        Raises:
            DeadlineTooShort: it takes longer even alone.
            EngineBusy: no room, or not in time by what lies before it.
        """
        costs = self._costs(params.model)
        alone = solo(costs, steps=params.steps, rows=work)
        if alone > timeout:
            raise DeadlineTooShort(
                f"timeout: {timeout:g} s; this takes about {alone:.2g} s with nothing else to do"
            )
        expected = self._expect(params, work, priority)
        if self.requests and expected.end > timeout:
            raise EngineBusy(
                f"it would take about {expected.end:.3g} s now; the timeout is {timeout:g} s",
                _seconds(expected.end - timeout),
            )
        waiting = sum(request.rows_left for request in self.requests.values())
        if len(self.requests) >= self.limits.jobs or waiting + work > self.limits.work:
            raise EngineBusy(
                f"{len(self.requests)} requests of {waiting} UNet evaluations are waiting or "
                f"running; the limits are {self.limits.jobs} and {self.limits.work}",
                _seconds(max(expected.wait, waiting / costs.best.rate / 2)),
            )

    def late(self, seconds: float) -> Iterator[tuple[Request, float]]:
        """What will not have ended in so many seconds, each with the seconds it would take.

        Those that are told of count as gone: what comes after them is done the sooner.
        """
        images: dict[tuple[str, bool], int] = defaultdict(int)  # that stay, by model and length
        rows = images.copy()
        order = sorted(self.requests.values(), key=lambda r: (not r.riding, -r.priority, r.id))
        for request in order:
            model = request.params.model
            before = [(model, long) for long in (False, True)[: 1 + request.long]]
            ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
            end = self._left(request, ahead)
            if end > seconds:
                yield request, end
            else:
                images[model, request.long] += request.params.n
                rows[model, request.long] += request.rows_left

    def _left(self, request: Request, ahead: Ahead) -> float:
        """Seconds until a request ends, by what lies before it or, if that is less, by its pace."""
        params, done = request.params, request.steps
        left = replace(params, steps=max(params.steps - done // params.n, 1))
        work = request.rows_left
        foreseen = self._forecast(left, ahead, images=params.n, work=work).end
        if not (request.riding and done):
            return foreseen
        pace = (time.monotonic() - request.began) / done
        return min(foreseen, pace * (request.all_steps - done))

    def places(self) -> Iterator[tuple[Request, Queued]]:
        """Every request that waits, the next one first, with its place in its model's queue.

        A long one comes after all that are before it, a short one after short ones alone.
        """
        images: dict[tuple[str, bool], int] = defaultdict(int)  # ahead, by model and length
        rows, waiting = images.copy(), images.copy()
        for request in sorted(self.requests.values(), key=lambda r: (-r.priority, r.id)):
            model, params = request.params.model, request.params
            if not request.riding:
                before = [(model, long) for long in (False, True)[: 1 + request.long]]
                ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
                # Its first image has a slot before the others; that is when its first step is.
                wait = self._forecast(params, ahead, images=1, work=request.work // params.n).wait
                yield request, Queued(sum(waiting[key] for key in before), wait)
            own = (model, request.long)
            images[own] += params.n
            rows[own] += request.rows_left
            waiting[own] += not request.riding

    def _expect(self, params: Params, work: int, priority: int) -> Forecast:
        """Seconds until a request of so much work would start and end, by what lies before it.

        Long requests do not lie before a short one, nor do those of lower priority.
        """
        before = [
            request
            for request in self.requests.values()
            if request.params.model == params.model
            and request.priority >= priority
            and (params.steps > LONG or not request.long)
        ]
        ahead = Ahead(sum(r.params.n for r in before), sum(r.rows_left for r in before))
        return self._forecast(params, ahead, images=params.n, work=work)

    def _forecast(self, params: Params, ahead: Ahead, *, images: int, work: int) -> Forecast:
        return forecast(
            self._costs(params.model),
            ahead,
            self._load.slots,
            steps=params.steps,
            images=images,
            rows=work,
            slowness=self.stats.slowness,
        )

    def _costs(self, model: str) -> Costs:
        """What ticks of a model cost, of those that the settings allow."""
        costs, most = self.models[model].costs, self._load.rows
        return costs if most is None else costs.up_to(most)


def _seconds(wait: float) -> int:
    """Whole seconds to come back after."""
    return min(max(math.ceil(wait), 1), _MAX_RETRY_AFTER)
