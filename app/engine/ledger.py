"""The unfinished requests: what lies before a new one, and whether it fits."""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.engine.backlog import Backlog
from app.engine.costs import Ahead, Costs, Forecast, is_long, solo
from app.engine.errors import DeadlineTooShort, EngineBusy
from app.engine.forecasts import Forecasts
from app.engine.job import Request, SamplingParams
from app.engine.model_info import LaneId, ModelInfo
from app.engine.pending import Pending
from app.engine.results import Queued
from app.engine.shares import Shares
from app.engine.stats import Stats
from app.engine.wire import Load, Progress

_MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on longer waits

_CULPRIT = 4  # deaths in a row at which the request was in flight
_MICRO = 1_000_000  # work is counted in whole microseconds of the device


@dataclass(frozen=True)
class Limits:
    """How many requests may wait and run at once, with how much work, and for how long.

    These hold for one client alone; all clients together have a quarter more (shares.py). Work is
    in seconds of the device, where ticks are full. A single request may have more work than that,
    and counts as if it had just that.
    """

    jobs: int
    work: float
    seconds: float  # for requests that do not say


_Line = tuple[LaneId, bool]  # the requests of a lane that wait in one order: the short, the long


class Ledger:
    """Requests waiting or running, in order of arrival."""

    def __init__(
        self, load: Load, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limits, self.stats, self._backlog = limits, Stats(), Backlog()
        self._clock = clock
        self._forecasts = Forecasts(load, self.stats, clock)
        self.requests: dict[int, Pending] = {}
        self.suspects: dict[int, Pending] = {}  # of these, those that may be what kills workers
        self._jobs = Shares(limits.jobs)
        self._work = Shares(max(round(limits.work * _MICRO), 1))  # microseconds of the device
        self._equal: dict[SamplingParams, dict[str, Pending]] = {}  # by client, the newest
        self.wanted: Counter[str] = Counter()  # requests by model

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The loaded models by name, the default first."""
        return self._forecasts.models

    @models.setter
    def models(self, models: Mapping[str, ModelInfo]) -> None:
        self._forecasts.models = models

    def costs(self, lane: LaneId) -> Costs:
        """What a lane's ticks cost, as far as it is known."""
        return self._forecasts.costs(lane)

    def heard(self, progress: Progress) -> None:
        """Note what the worker did."""
        self.stats.note(progress)
        self._forecasts.note(progress)

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
            (p for p in same.values() if held(p.client) <= held(client) + p.cost), None
        )
        if found is None or found.request.priority < request.priority or request.previews:
            return None
        return found

    def add(self, pending: Pending) -> None:
        """Add a request."""
        params = pending.params
        pending.long, pending.cost = self._is_long(params), self._cost(params)
        self.requests[pending.id] = pending
        self.wanted[params.model] += 1
        self._equal.setdefault(pending.params, {})[pending.client] = pending
        self._charge(pending, 1)
        self.note(pending, 0)
        self._forecasts.came(params)

    def forget(self, pending: Pending) -> None:
        """Remove a request that has ended."""
        if self.requests.pop(pending.id, None) is None:
            return
        self.suspects.pop(pending.id, None)
        self.wanted[pending.params.model] -= 1
        if not self.wanted[pending.params.model]:
            del self.wanted[pending.params.model]
        self._count(pending, 0)
        self._charge(pending, -1)
        same = self._equal.get(pending.params, {})
        if same.get(pending.client) is pending:  # a later one may have taken its place
            del same[pending.client]
            if not same:
                del self._equal[pending.params]

    def bury(self, model: str) -> list[Pending]:
        """Count the death of a model's worker against requests that were running; the culprits.

        If none was running, it counts against all that the worker had received. All are unsent now.
        """
        requests = self.of(model)
        self.stats.forget(model)
        blamed = {r for r in requests if r.riding} or {r for r in requests if r.sent}
        for pending in requests:
            if pending in blamed:
                pending.deaths += 1
            elif blamed and not pending.suspect:
                pending.deaths = 0
            pending.sent = pending.riding = False
            self.note(pending, 0)
        self.suspects |= {pending.id: pending for pending in requests if pending.suspect}
        return [pending for pending in requests if pending.deaths >= _CULPRIT]

    def of(self, model: str) -> list[Pending]:
        """The requests of a model, in order."""
        return [pending for pending in self.requests.values() if pending.params.model == model]

    def note(self, pending: Pending, evaluations: int) -> None:
        """Note how many evaluations the images of a request have had together."""
        pending.evaluations = evaluations
        self._count(pending, pending.rows_left)

    def admit(self, request: Request, timeout: float) -> None:
        """Refuse a request that has no room, or cannot be done within `timeout` seconds.

        Raises:
            DeadlineTooShort: it takes longer even alone.
            EngineBusy: no room in its client's share, or not in time by what lies before it.
        """
        params, client = request.params, request.asker.client
        costs = self.costs(params.lane)
        alone = solo(costs, evaluations=params.evaluations, rows=params.work)
        if alone > timeout:
            raise DeadlineTooShort(
                f"timeout: {timeout:g} s is too short; the request takes about {_told(alone)} alone"
            )
        expected = self.expected(request)
        if self.requests and expected.end > timeout:
            raise EngineBusy(
                f"it would take about {_told(expected.end)} now; its timeout is {timeout:g} s",
                _seconds(expected.end - timeout),
            )
        if not (self._jobs.fits(client) and self._work.fits(client, self._cost(params))):
            held = (self._work.held(client) or self._work.taken) / _MICRO
            wait = _seconds(max(expected.wait, held / 2))
            raise EngineBusy(self._full(client), wait)

    def expected(self, request: Request) -> Forecast:
        """When a request that comes now would have its slots, and when it would end."""
        params = request.params
        ahead = self._backlog.ahead(request, long=self._is_long(params))
        beside = self._backlog.beside(params.lane)
        return self._forecasts.forecast(params, ahead, beside, images=params.n, work=params.work)

    def late(
        self, seconds: float, outage: Callable[[str], float] = lambda _: 0.0
    ) -> Iterator[tuple[Pending, float]]:
        """The requests that will not end within `seconds`, each with the seconds it would take.

        Requests that were yielded count as gone, so later ones are done sooner. `outage` is the
        time until a model takes requests.
        """
        images: dict[_Line, int] = defaultdict(int)  # that stay
        rows = images.copy()
        for pending in sorted(self._in_turn(), key=lambda pending: not pending.riding):
            before = _before(pending)
            ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
            beside: dict[LaneId, Ahead] = {}
            for lane, _ in images:
                if lane != pending.params.lane:
                    lines = (lane, False), (lane, True)
                    beside[lane] = Ahead(
                        sum(images.get(line, 0) for line in lines),
                        sum(rows.get(line, 0) for line in lines),
                    )
            end = outage(pending.params.model) + self._left(pending, ahead, beside)
            if end > seconds:
                yield pending, end
            else:
                images[before[-1]] += pending.params.n
                rows[before[-1]] += pending.rows_left

    def _left(self, pending: Pending, ahead: Ahead, beside: Mapping[LaneId, Ahead]) -> float:
        """Seconds until a request ends, by what lies before it or, if that is less, by its pace."""
        params, done = pending.params, pending.evaluations
        left = max(params.evaluations - done // params.n, 1)
        foreseen = self._forecasts.forecast(
            params, ahead, beside, images=params.n, work=pending.rows_left, evaluations=left
        ).end
        if not (pending.riding and done):
            return foreseen
        pace = (self._clock() - pending.began) / done
        return min(foreseen, pace * (pending.all_evaluations - done))

    def places(self, asked: Callable[[Pending], bool]) -> Iterator[tuple[Pending, Queued]]:
        """The given requests that wait, the next one first, with their places in the lane's queue.

        A long request comes after all that are before it, a short one only after short ones.
        """
        if not any(asked(pending) for pending in self.requests.values()):
            return
        images: dict[_Line, int] = defaultdict(int)  # ahead
        rows, waiting = images.copy(), images.copy()
        for pending in self._in_turn():
            before, params = _before(pending), pending.params
            if not pending.riding and asked(pending):
                ahead = Ahead(sum(images[key] for key in before), sum(rows[key] for key in before))
                # Its first image has a slot before the others; that is when its first step is.
                beside, work = self._backlog.beside(params.lane), pending.work // params.n
                wait = self._forecasts.forecast(params, ahead, beside, images=1, work=work).wait
                yield pending, Queued(sum(waiting[key] for key in before), wait)
            images[before[-1]] += params.n
            rows[before[-1]] += pending.counted
            waiting[before[-1]] += not pending.riding

    def _in_turn(self) -> Sequence[Pending]:
        """Requests in the order of their slots: one image of each client, then the next of each."""
        requests = sorted(self.requests.values(), key=lambda r: (-r.request.priority, r.id))
        if self._jobs.clients < 2:
            return requests
        images: dict[tuple[str, LaneId], int] = defaultdict(int)
        turns = []  # of each request, the images of its client that come first
        for pending in requests:
            own = pending.client, pending.params.lane
            turns.append((images[own], -pending.request.priority, pending.id))
            images[own] += pending.params.n
        return [self.requests[number] for *_, number in sorted(turns)]

    def _full(self, client: str) -> str:
        """Why there is no room for a client."""
        jobs, work = self._jobs, self._work
        if not jobs.held(client):
            return (
                f"{jobs.taken} requests of {jobs.clients} clients "
                f"({_work(work.taken)} of the device's time) "
                f"are waiting or running; the limits are {jobs.total} and {_work(work.total)}"
            )
        share = "" if jobs.clients == 1 else " besides those of other clients"
        return (
            f"{jobs.held(client)} requests of this client "
            f"({_work(work.held(client))} of the device's time) "
            f"are waiting or running{share}; the limits are {jobs.most(client)} and "
            f"{_work(work.most(client))}"
        )

    def _charge(self, pending: Pending, sign: int) -> None:
        self._jobs.take(pending.client, sign)
        self._backlog.add(pending, sign * pending.params.n, 0)

    def _count(self, pending: Pending, rows: int) -> None:
        """Let so many rows of a request be what is still to be done."""
        charged = pending.cost * rows // pending.work
        self._work.take(pending.client, charged - pending.charged)
        self._backlog.add(pending, 0, rows - pending.counted)
        pending.counted, pending.charged = rows, charged

    def _is_long(self, params: SamplingParams) -> bool:
        """Whether it gives way to shorter ones."""
        rows = params.work / params.n
        return is_long(self.costs(params.lane), evaluations=params.evaluations, rows=rows)

    def _cost(self, params: SamplingParams) -> int:
        """What a request is charged with, in microseconds of the device."""
        seconds = params.work / self.costs(params.lane).best.rate
        return round(min(seconds, self.limits.work) * _MICRO)


def _seconds(wait: float) -> int:
    """Whole seconds after which to try again."""
    return min(max(math.ceil(wait), 1), _MAX_RETRY_AFTER)


def _before(pending: Pending) -> list[_Line]:
    """The lines that come before a request, its own last: the long ones wait for the short ones."""
    lines = [(pending.params.lane, False), (pending.params.lane, True)]
    return lines[: 1 + pending.long]


def _told(seconds: float) -> str:
    """Seconds as text, with two digits that mean something."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{max(seconds, 0):.2g} s"


def _work(work: int) -> str:
    """Microseconds as text."""
    return _told(work / _MICRO)
