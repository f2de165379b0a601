"""The unfinished requests: what lies before a new one, and whether it fits."""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.engine.costs import Ahead, Costs, Forecast, forecast, solo
from app.engine.errors import DeadlineTooShort, EngineBusy
from app.engine.job import LONG, Request, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.pending import Pending
from app.engine.results import Queued
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
        self.requests: dict[int, Pending] = {}
        self.suspects: dict[int, Pending] = {}  # of these, those that may be what kills workers
        self._jobs, self._work = Shares(limits.jobs), Shares(limits.work)
        self._sums: dict[_Kind, _Sum] = defaultdict(_Sum)
        self._equal: dict[SamplingParams, dict[str, Pending]] = {}  # by client, the newest

    def equal(self, request: Request) -> Pending | None:
        """One for the same pixels that may answer this request as well; None if there is none.

        It is no less urgent, and this one wants no previews. It comes no later than this one would:
        it is the client's own newest, or that of another client with no more work here than this
        client would have.
        """
        same = self._equal.get(request.params, {})
        client = request.asker.client
        held = self._work.held
        found = same.get(client) or next(
            (p for p in same.values() if held(p.client) <= held(client) + p.work), None
        )
        if found is None or found.request.priority < request.priority or request.previews:
            return None
        return found

    def add(self, pending: Pending) -> None:
        """Add a request."""
        self.requests[pending.id] = pending
        self._equal.setdefault(pending.params, {})[pending.client] = pending
        self._charge(pending, 1)
        self.note(pending, 0)

    def forget(self, pending: Pending) -> None:
        """Remove a request that has ended."""
        if self.requests.pop(pending.id, None) is None:
            return
        self.suspects.pop(pending.id, None)
        self._count(pending, -pending.counted)
        self._charge(pending, -1)
        same = self._equal[pending.params]
        if same.get(pending.client) is pending:
            del same[pending.client]
        if not same:
            del self._equal[pending.params]

    def bury(self) -> list[Pending]:
        """Count a worker's death against the requests that were running; return the culprits.

        If none was running, it counts against all that the worker had received. All are unsent now.
        """
        requests, self.stats.running = list(self.requests.values()), 0
        blamed = {r for r in requests if r.riding} or {r for r in requests if r.sent}
        for pending in requests:
            if pending in blamed:
                pending.deaths += 1
            elif blamed and not pending.suspect:
                pending.deaths = 0
            pending.sent = pending.riding = False
            self.note(pending, 0)
        self.suspects = {pending.id: pending for pending in requests if pending.suspect}
        return [pending for pending in requests if pending.deaths >= _CULPRIT]

    def note(self, pending: Pending, evaluations: int) -> None:
        """Note how many evaluations the images of a request have had together."""
        pending.evaluations = evaluations
        self._count(pending, pending.rows_left - pending.counted)

    def admit(self, request: Request, timeout: float) -> None:
        """Refuse a request that has no room, or cannot be done within `timeout` seconds.

        Raises:
            DeadlineTooShort: it takes longer even alone.
            EngineBusy: no room in its client's share, or not in time by what lies before it.
        """
        params, client = request.params, request.asker.client
        costs, work = self._costs(params.model), params.work
        alone = solo(costs, evaluations=params.evaluations, rows=work)
        if alone > timeout:
            raise DeadlineTooShort(
                f"timeout: {timeout:g} s is too short; the request takes about {alone:.2g} s alone"
            )
        expected = self._forecast(params, self._ahead(request), images=params.n, work=work)
        if self.requests and expected.end > timeout:
            raise EngineBusy(
                f"it would take about {expected.end:.3g} s now; its timeout is {timeout:g} s",
                _seconds(expected.end - timeout),
            )
        if not (self._jobs.fits(client) and self._work.fits(client, work)):
            rows = self._work.held(client) or self._work.taken
            wait = _seconds(max(expected.wait, rows / costs.best.rate / 2))
            raise EngineBusy(self._full(client), wait)

    def late(self, seconds: float) -> Iterator[tuple[Pending, float]]:
        """The requests that will not end within `seconds`, each with the seconds it would take.

        Requests that were yielded count as gone, so later ones are done sooner.
        """
        images: dict[tuple[str, bool], int] = defaultdict(int)  # that stay, by model and length
        rows = images.copy()
        for pending in sorted(self._in_turn(), key=lambda pending: not pending.riding):
            model = pending.params.model
            before = [(model, long) for long in (False, True)[: 1 + pending.long]]
            ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
            end = self._left(pending, ahead)
            if end > seconds:
                yield pending, end
            else:
                images[model, pending.long] += pending.params.n
                rows[model, pending.long] += pending.rows_left

    def _left(self, pending: Pending, ahead: Ahead) -> float:
        """Seconds until a request ends, by what lies before it or, if that is less, by its pace."""
        params, done = pending.params, pending.evaluations
        left = max(params.evaluations - done // params.n, 1)
        foreseen = self._forecast(
            params, ahead, images=params.n, work=pending.rows_left, evaluations=left
        ).end
        if not (pending.riding and done):
            return foreseen
        pace = (time.monotonic() - pending.began) / done
        return min(foreseen, pace * (pending.all_evaluations - done))

    def places(self, asked: Callable[[Pending], bool]) -> Iterator[tuple[Pending, Queued]]:
        """The given requests that wait, the next one first, with their places in the model's queue.

        A long request comes after all that are before it, a short one only after short ones.
        """
        if not any(asked(pending) for pending in self.requests.values()):
            return
        images: dict[tuple[str, bool], int] = defaultdict(int)  # ahead, by model and length
        rows, waiting = images.copy(), images.copy()
        for pending in self._in_turn():
            model, params = pending.params.model, pending.params
            if not pending.riding and asked(pending):
                before = [(model, long) for long in (False, True)[: 1 + pending.long]]
                ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
                # Its first image has a slot before the others; that is when its first step is.
                wait = self._forecast(params, ahead, images=1, work=pending.work // params.n).wait
                yield pending, Queued(sum(waiting[key] for key in before), wait)
            own = (model, pending.long)
            images[own] += params.n
            rows[own] += pending.counted
            waiting[own] += not pending.riding

    def _in_turn(self) -> Sequence[Pending]:
        """Requests in the order of their slots: one image of each client, then the next of each."""
        requests = sorted(self.requests.values(), key=lambda r: (-r.request.priority, r.id))
        if self._jobs.clients < 2:
            return requests
        images: dict[tuple[str, str], int] = defaultdict(int)
        turns = []  # of each request, the images of its client that come first
        for pending in requests:
            own = pending.client, pending.params.model
            turns.append((images[own], -pending.request.priority, pending.id))
            images[own] += pending.params.n
        return [self.requests[number] for *_, number in sorted(turns)]

    def _ahead(self, request: Request) -> Ahead:
        """What lies before a new request: its client's images, and as many of every other client.

        Long requests do not lie before a short one, nor do those of lower priority.
        """
        params, client = request.params, request.asker.client
        own, others = _Sum(params.n, params.work), defaultdict[str, _Sum](_Sum)
        for kind, held in self._sums.items():
            if kind.model != params.model or kind.priority < request.priority:
                continue
            if kind.long and params.evaluations <= LONG:
                continue
            whose = own if kind.client == client else others[kind.client]
            whose.add(held.images, held.rows)
        images = sum(min(other.images, own.images) for other in others.values())
        rows = sum(min(other.rows, own.rows) for other in others.values())
        return Ahead(own.images - params.n + images, own.rows - params.work + rows)

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

    def _charge(self, pending: Pending, sign: int) -> None:
        self._jobs.take(pending.client, sign)
        self._add(pending, sign * pending.params.n, 0)

    def _count(self, pending: Pending, rows: int) -> None:
        pending.counted += rows
        self._work.take(pending.client, rows)
        self._add(pending, 0, rows)

    def _add(self, pending: Pending, images: int, rows: int) -> None:
        kind = _Kind(pending.client, pending.params.model, pending.request.priority, pending.long)
        held = self._sums[kind]
        held.add(images, rows)
        if not held.images:
            del self._sums[kind]

    def _forecast(
        self,
        params: SamplingParams,
        ahead: Ahead,
        *,
        images: int,
        work: int,
        evaluations: int | None = None,
    ) -> Forecast:
        return forecast(
            self._costs(params.model),
            ahead,
            self._load.slots or self.models[params.model].slots,
            evaluations=evaluations or params.evaluations,
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
