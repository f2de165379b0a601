"""The unfinished requests: what lies before a new one, and whether it fits."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from app.engine.costs import Costs, Forecast, forecast, solo
from app.engine.costs import Load as Ahead
from app.engine.job import (
    LONG,
    DeadlineTooShort,
    EngineBusy,
    ModelInfo,
    Params,
    Queued,
)
from app.engine.request import Request
from app.engine.shares import Shares
from app.engine.wire import Load

_MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on longer waits

_CULPRIT = 4  # deaths in a row at which the request was in flight


@dataclass
class Stats:
    """What the engine did since the server started; ticks, rows and padding are counts."""

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    running: int = 0  # slots taken at the last report
    shared: int = 0  # requests that an equal one in flight answered
    cancelled: int = 0
    cancel_ticks: int = 0  # the most ticks from a client's disconnect until its slots were free
    slowness: float = 1.0  # time of recent ticks, divided by the time measured alone


@dataclass(frozen=True)
class Limits:
    """How many requests and UNet evaluations may wait and run at once, and for how long.

    These hold for one client alone; all clients together have a quarter more (shares.py).
    """

    jobs: int
    work: int
    seconds: float  # for requests that do not say


class _Kind(NamedTuple):
    """Requests that count as one for those that wait behind them."""

    client: str
    model: str
    priority: int
    long: bool


@dataclass
class _Sum:
    """Images of some requests, and their UNet evaluations still to be made."""

    images: int = 0
    rows: int = 0

    def add(self, images: int, rows: int) -> None:
        """Add the images and rows of more requests."""
        self.images += images
        self.rows += rows


class Ledger:
    """Requests waiting or running, in order of arrival."""

    def __init__(self, load: Load, limits: Limits) -> None:
        self._load, self.limits = load, limits
        self.models: Mapping[str, ModelInfo] = {}
        self.stats = Stats()
        self.requests: dict[int, Request] = {}
        self.suspects: dict[int, Request] = {}  # of these, those that may be what kills workers
        self._jobs, self._work = Shares(limits.jobs), Shares(limits.work)
        self._sums: dict[_Kind, _Sum] = defaultdict(_Sum)
        self._equal: dict[Params, dict[str, Request]] = {}  # by client, the newest

    def equal(self, params: Params, client: str) -> Request | None:
        """A request for the same pixels that comes no later than one of this client would.

        It is the client's own newest request, or that of another client with no more work here than
        this client would have.
        """
        same = self._equal.get(params, {})
        if own := same.get(client):
            return own
        held = self._work.held
        return next((r for r in same.values() if held(r.client) <= held(client) + r.work), None)

    def add(self, request: Request) -> None:
        """Add a request."""
        self.requests[request.id] = request
        self._equal.setdefault(request.params, {})[request.client] = request
        self._charge(request, 1)
        self.note(request, 0)

    def forget(self, request: Request) -> None:
        """Remove a request that has ended."""
        if self.requests.pop(request.id, None) is None:
            return
        self.suspects.pop(request.id, None)
        self._count(request, -request.counted)
        self._charge(request, -1)
        same = self._equal[request.params]
        if same.get(request.client) is request:
            del same[request.client]
        if not same:
            del self._equal[request.params]

    def bury(self) -> list[Request]:
        """Count a worker's death against the requests that were running; return the culprits.

        If none was running, it counts against all that the worker had received. All are unsent now.
        """
        requests, self.stats.running = list(self.requests.values()), 0
        blamed = {r for r in requests if r.riding} or {r for r in requests if r.sent}
        for request in requests:
            if request in blamed:
                request.deaths += 1
            elif blamed and not request.suspect:
                request.deaths = 0
            request.sent = request.riding = False
            self.note(request, 0)
        self.suspects = {request.id: request for request in requests if request.suspect}
        return [request for request in requests if request.deaths >= _CULPRIT]

    def note(self, request: Request, steps: int) -> None:
        """Note how many steps the images of a request have made together."""
        request.steps = steps
        self._count(request, request.rows_left - request.counted)

    def admit(
        self, params: Params, work: int, priority: int, timeout: float, client: str = ""
    ) -> None:
        """Refuse a request that has no room, or cannot be done in time.

        Raises:
            DeadlineTooShort: it takes longer even alone.
            EngineBusy: no room in its client's share, or not in time by what lies before it.
        """
        costs = self._costs(params.model)
        alone = solo(costs, steps=params.steps, rows=work)
        if alone > timeout:
            raise DeadlineTooShort(
                f"timeout: {timeout:g} s is too short; the request takes about {alone:.2g} s alone"
            )
        ahead = self._ahead(params, work, priority, client)
        expected = self._forecast(params, ahead, images=params.n, work=work)
        if self.requests and expected.end > timeout:
            raise EngineBusy(
                f"it would take about {expected.end:.3g} s now; its timeout is {timeout:g} s",
                _seconds(expected.end - timeout),
            )
        if not (self._jobs.fits(client) and self._work.fits(client, work)):
            rows = self._work.held(client) or self._work.taken
            wait = _seconds(max(expected.wait, rows / costs.best.rate / 2))
            raise EngineBusy(self._full(client), wait)

    def late(self, seconds: float) -> Iterator[tuple[Request, float]]:
        """The requests that will not end within `seconds`, each with the seconds it would take.

        Requests that were yielded count as gone, so later ones are done sooner.
        """
        images: dict[tuple[str, bool], int] = defaultdict(int)  # that stay, by model and length
        rows = images.copy()
        for request in sorted(self._in_turn(), key=lambda request: not request.riding):
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

    def places(self, asked: Callable[[Request], bool]) -> Iterator[tuple[Request, Queued]]:
        """The given requests that wait, the next one first, with their places in the model's queue.

        A long request comes after all that are before it, a short one only after short ones.
        """
        if not any(asked(request) for request in self.requests.values()):
            return
        images: dict[tuple[str, bool], int] = defaultdict(int)  # ahead, by model and length
        rows, waiting = images.copy(), images.copy()
        for request in self._in_turn():
            model, params = request.params.model, request.params
            if not request.riding and asked(request):
                before = [(model, long) for long in (False, True)[: 1 + request.long]]
                ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
                # Its first image has a slot before the others; that is when its first step is.
                wait = self._forecast(params, ahead, images=1, work=request.work // params.n).wait
                yield request, Queued(sum(waiting[key] for key in before), wait)
            own = (model, request.long)
            images[own] += params.n
            rows[own] += request.counted
            waiting[own] += not request.riding

    def _in_turn(self) -> Sequence[Request]:
        """Requests in the order of their slots: one image of each client, then the next of each."""
        requests = sorted(self.requests.values(), key=lambda r: (-r.priority, r.id))
        if self._jobs.clients < 2:
            return requests
        images: dict[tuple[str, str], int] = defaultdict(int)
        turns = []  # of each request, the images of its client that come first
        for request in requests:
            own = request.client, request.params.model
            turns.append((images[own], -request.priority, request.id))
            images[own] += request.params.n
        return [self.requests[number] for *_, number in sorted(turns)]

    def _ahead(self, params: Params, work: int, priority: int, client: str) -> Ahead:
        """What lies before a new request: its client's images, and as many of every other client.

        Long requests do not lie before a short one, nor do those of lower priority.
        """
        own, others = _Sum(params.n, work), defaultdict[str, _Sum](_Sum)
        for kind, held in self._sums.items():
            if kind.model != params.model or kind.priority < priority:
                continue
            if kind.long and params.steps <= LONG:
                continue
            whose = own if kind.client == client else others[kind.client]
            whose.add(held.images, held.rows)
        images = sum(min(other.images, own.images) for other in others.values())
        rows = sum(min(other.rows, own.rows) for other in others.values())
        return Ahead(own.images - params.n + images, own.rows - work + rows)

    def _full(self, client: str) -> str:
        """Why there is no room for a client."""
        jobs, work = self._jobs, self._work
        if not jobs.held(client):
            return (
                f"{jobs.taken} requests of {jobs.clients} clients ({work.taken} UNet evaluations) "
                f"are waiting or running; the limits are {jobs.total} and {work.total}"
            )
        share = "" if jobs.clients == 1 else " besides those of other clients"
        return (
            f"{jobs.held(client)} requests of this client ({work.held(client)} UNet evaluations) "
            f"are waiting or running{share}; the limits are {jobs.most(client)} and "
            f"{work.most(client)}"
        )

    def _charge(self, request: Request, sign: int) -> None:
        self._jobs.take(request.client, sign)
        self._add(request, sign * request.params.n, 0)

    def _count(self, request: Request, rows: int) -> None:
        request.counted += rows
        self._work.take(request.client, rows)
        self._add(request, 0, rows)

    def _add(self, request: Request, images: int, rows: int) -> None:
        kind = _Kind(request.client, request.params.model, request.priority, request.long)
        held = self._sums[kind]
        held.add(images, rows)
        if not held.images:
            del self._sums[kind]

    def _forecast(self, params: Params, ahead: Ahead, *, images: int, work: int) -> Forecast:
        return forecast(
            self._costs(params.model),
            ahead,
            self._load.slots or self.models[params.model].slots,
            steps=params.steps,
            images=images,
            rows=work,
            slowness=self.stats.slowness,
        )

    def _costs(self, model: str) -> Costs:
        """What a model's ticks cost, for the buckets that the settings allow."""
        costs, most = self.models[model].costs, self._load.rows
        return costs if most is None else costs.up_to(most)


def _seconds(wait: float) -> int:
    """Whole seconds after which to try again."""
    return min(max(math.ceil(wait), 1), _MAX_RETRY_AFTER)
