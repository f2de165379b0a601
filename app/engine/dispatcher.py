"""The lives of requests: sent to their model's worker, answered, and sent again when it dies.

One event loop uses it; `client.py` is its face.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Collection, Sequence

from app.engine.errors import EngineUnavailable, GenerationFailed
from app.engine.fleet import Fleet
from app.engine.job import Request
from app.engine.keeping import Keeping
from app.engine.ledger import Ledger, Limits
from app.engine.pending import Pending
from app.engine.process import WorkerProcess
from app.engine.results import Moved, Preview, Queued
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

_PLACE_SECONDS = 1.0  # seconds between reports of places: each wakes every waiting client


class Dispatcher:
    """Hands requests to workers, and what these say of them back.

    `told` is called when requests may be taken, or never will be.
    """

    def __init__(
        self,
        load: Load,
        limits: Limits,
        start: Callable[[Load], WorkerProcess],
        upkeep: Upkeep,
        keeping: Keeping,
        told: Callable[[], None],
    ) -> None:
        self.ledger, self._told = Ledger(load, limits), told
        self._ids = itertools.count(1)
        self.ends = math.inf  # when the server stops; time.monotonic()
        self.fleet = Fleet(load, start, upkeep, keeping, self)

    def place(self, pending: Pending) -> Queued:
        """Its place in the queue, if it waits."""
        found = next(self.ledger.places(lambda other: other is pending), None)
        place = found[1] if found else Queued(0, 0.0)
        pending.place, pending.placed = place.position, time.monotonic()
        return place

    def submit(self, request: Request) -> Pending:
        """Take a request, and send it if a worker takes any."""
        answer = asyncio.get_running_loop().create_future()
        pending = Pending(next(self._ids), request, request.params.work, answer)
        self.ledger.add(pending)
        self.fleet.touch(request.params.model)
        if self.ledger.suspects:
            self._send_waiting(request.params.model)
        else:
            self._send(pending)
        return pending

    def _send_waiting(self, model: str) -> None:
        """Send a model's unsent requests; those in flight at two deaths alone, one by one."""
        requests = self.ledger.of(model)
        waiting = [pending for pending in requests if not pending.sent]
        if suspects := [pending for pending in requests if pending.id in self.ledger.suspects]:
            waiting = [] if any(pending.sent for pending in requests) else suspects[:1]
        for pending in waiting:
            self._send(pending)

    def _send(self, pending: Pending) -> None:
        """Send a request, if there is a worker that takes it."""
        supervisor = self.fleet.crew.taker(pending.params.model)
        if supervisor is not None and supervisor.up:
            pending.sent = True
            supervisor.send(Submit(pending.id, pending.request))

    def abandon(self, pending: Pending) -> None:
        """End a request that nobody waits for any more."""
        pending.answer.cancel()
        self._cancel(pending)
        self._forget(pending)

    def _cancel(self, pending: Pending) -> None:
        if pending.sent:
            self.fleet.crew.send(pending.params.model, Cancel(pending.id))

    def _forget(self, pending: Pending) -> None:
        self.ledger.forget(pending)
        self.fleet.touch(pending.params.model, ended=True)
        if pending.suspect:  # others waited for its end
            self._send_waiting(pending.params.model)

    def wanted(self) -> Collection[str]:
        """The models that have requests."""
        return self.ledger.wanted

    def sent(self, model: str) -> bool:
        """Whether a model's worker has requests."""
        return any(pending.sent for pending in self.ledger.of(model))

    def changed(self) -> None:
        """Take note of the models that there are, or that there will be none."""
        self.ledger.models = self.fleet.models
        self._told()
        if self.fleet.fault is not None:
            self.fail_all(self.fleet.fault)

    def unloaded(self, model: str) -> None:
        """Forget what a worker did that is no more."""
        self.ledger.stats.forget(model)

    def heard(self, event: Event) -> None:
        """Handle an event of a worker."""
        if isinstance(event, Progress):
            self._note(event)
        elif isinstance(event, Ready):
            for info in event.models:
                self.ledger.stats.forget(info.name)
                self._send_waiting(info.name)
        elif isinstance(event, Admitted):
            for job_id in event.job_ids:
                if (pending := self.ledger.requests.get(job_id)) and not pending.riding:
                    pending.riding, pending.began = True, time.monotonic()
        elif isinstance(event, Shown):
            self._show(event.job_id, event.previews)
        elif isinstance(event, Cancelled):
            stats = self.ledger.stats
            stats.cancelled += 1
            stats.cancel_ticks = max(stats.cancel_ticks, event.ticks)
        elif isinstance(event, LeftOut):
            self._leave_out(event)
        elif isinstance(event, Done | Failed):
            self._answer(event)

    def _leave_out(self, event: LeftOut) -> None:
        """Refuse the requests of a model that did not load."""
        for pending in self.ledger.of(event.model):
            self._refuse(pending, f"model {event.model!r} does not load: {event.reason}")

    def _answer(self, event: Done | Failed) -> None:
        pending = self.ledger.requests.get(event.job_id)
        if pending is None:
            return
        if isinstance(event, Done):
            pending.answer.set_result(event)
        else:
            pending.answer.set_exception(GenerationFailed(event.reason))
        self._forget(pending)

    def _show(self, job_id: int, previews: Sequence[Preview]) -> None:
        """Pass previews on, except those that were passed on before a worker died."""
        if pending := self.ledger.requests.get(job_id):
            for preview in previews:
                if preview.step > pending.shown.get(preview.image, 0):
                    pending.shown[preview.image] = preview.step
                    pending.tell(preview)

    def _note(self, progress: Progress) -> None:
        now = time.monotonic()
        self.ledger.heard(progress)
        for job_id, previews in progress.previews.items():
            self._show(job_id, previews)
        for job_id, made in progress.evaluations.items():
            if pending := self.ledger.requests.get(job_id):
                self.ledger.note(pending, made)
                if made > pending.told:
                    pending.told = made
                    pace = (now - pending.began) / made
                    left = pace * (pending.all_evaluations - made)
                    pending.tell(Moved(made, pending.all_evaluations, left))

        def due(pending: Pending) -> bool:
            return bool(pending.watches) and now - pending.placed >= _PLACE_SECONDS

        for pending, place in self.ledger.places(due):
            if pending.place != place.position:
                pending.place, pending.placed = place.position, now
                pending.tell(place)

    def buried(self, model: str) -> None:
        """A worker died: its requests are sent again, except a request that caused its death."""
        for pending in self.ledger.bury(model):
            told = "request %s (%s, %dx%d) was running alone at two deaths of the worker, and fails"
            lane = pending.params.lane  # no more than that: prompts are private
            log.error(told, pending.asker.request_id, lane.model, lane.width, lane.height)
            pending.answer.set_exception(
                GenerationFailed("the worker died each time it ran this request")
            )
            self._forget(pending)
        if self.ends < math.inf:
            self.turn_away()

    def turn_away(self) -> None:
        """Fail the requests that cannot be done before the server stops; the rest is faster."""
        left = self.ends - time.monotonic()
        for pending, seconds in list(self.ledger.late(left, self.fleet.crew.outage)):
            told = f"the server stops in {max(left, 0):.3g} s; this request would take about "
            self._refuse(pending, f"{told}{seconds:.3g} s")
        if not self.ledger.requests:
            self.fleet.retire()

    def _refuse(self, pending: Pending, reason: str) -> None:
        """End a request, wherever it is, for a reason outside it."""
        if not pending.answer.done():
            pending.answer.set_exception(EngineUnavailable(reason))
        self._cancel(pending)
        self._forget(pending)

    def fail_all(self, reason: str) -> None:
        """End every request, for a reason outside it."""
        for pending in list(self.ledger.requests.values()):
            self._refuse(pending, reason)
