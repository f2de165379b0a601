"""The lives of requests: sent to the worker, followed, answered, and sent again when it dies.

One event loop uses it; `client.py` is its face.
"""

import asyncio
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence

from app.engine.errors import EngineUnavailable, GenerationFailed
from app.engine.job import Request
from app.engine.ledger import Ledger, Limits
from app.engine.model_info import Models
from app.engine.pending import Pending
from app.engine.process import WorkerProcess
from app.engine.results import Moved, Preview, Queued
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

_PLACE_SECONDS = 1.0  # seconds between reports of places: each wakes every waiting client


class Dispatcher:
    """Hands requests to the worker, and what it says of them back.

    `changed` is called when requests may be taken, or never will be.
    """

    def __init__(
        self,
        load: Load,
        limits: Limits,
        start: Callable[[Load], WorkerProcess],
        upkeep: Upkeep,
        changed: Callable[[], None],
    ) -> None:
        self.ledger, self._changed = Ledger(load, limits), changed
        self._ids = itertools.count(1)
        self.ends = math.inf  # when the server stops; time.monotonic()
        self.supervisor = Supervisor(load, start, self._handle, self._bury, upkeep)

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
        if self.supervisor.up and not self.ledger.suspects:
            self._send(pending)
        return pending

    def _send_waiting(self) -> None:
        """Send the unsent requests; those in flight at two deaths are sent alone, one by one."""
        if not self.supervisor.up:
            return
        requests = self.ledger.requests.values()
        waiting = [pending for pending in requests if not pending.sent]
        if suspects := list(self.ledger.suspects.values()):
            waiting = [] if any(pending.sent for pending in requests) else suspects[:1]
        for pending in waiting:
            self._send(pending)

    def _send(self, pending: Pending) -> None:
        pending.sent = True
        self.supervisor.send(Submit(pending.id, pending.request))

    def abandon(self, pending: Pending) -> None:
        """End a request that nobody waits for any more."""
        pending.answer.cancel()
        if pending.sent:
            self.supervisor.send(Cancel(pending.id))
        self._forget(pending)

    def _forget(self, pending: Pending) -> None:
        self.ledger.forget(pending)
        if pending.suspect:  # others waited for its end
            self._send_waiting()

    def _handle(self, event: Event) -> None:
        """Handle an event of the worker."""
        if isinstance(event, Progress):
            self._note(event)
        elif isinstance(event, Ready):
            self.ledger.models = Models(event.models, self.supervisor.failed)
            self.ledger.stats.renew()
            self._changed()
            self._send_waiting()
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
        """Forget a model that was left out, and refuse its requests."""
        loaded = [info for name, info in self.ledger.models.items() if name != event.model]
        self.ledger.models = Models(loaded, self.supervisor.failed)
        for pending in list(self.ledger.requests.values()):
            if pending.params.model == event.model:
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

    def _bury(self) -> None:
        """The worker died: send its requests again, except a request that caused its death."""
        if self.supervisor.fault is not None:
            self._changed()
            self.fail_all(self.supervisor.fault)
        for pending in self.ledger.bury():
            told = "request %s (%s, %dx%d) was running alone at two deaths of the worker, and fails"
            lane = pending.params.lane  # no more than that: prompts are private
            log.error(told, pending.asker.request_id, lane.model, lane.width, lane.height)
            pending.answer.set_exception(
                GenerationFailed("the worker died each time it ran this request")
            )
            self.ledger.forget(pending)
        if self.ends < math.inf:
            self.turn_away()

    def turn_away(self) -> None:
        """Fail the requests that cannot be done before the server stops; the rest is faster."""
        left = self.ends - time.monotonic()
        outage = self.supervisor.outage
        for pending, seconds in list(self.ledger.late(left - outage)):
            told = f"the server stops in {max(left, 0):.3g} s; this request would take about "
            self._refuse(pending, f"{told}{outage + seconds:.3g} s")
        if not self.ledger.requests:
            self.supervisor.retire()

    def _refuse(self, pending: Pending, reason: str) -> None:
        """End a request, wherever it is, for a reason outside it."""
        if not pending.answer.done():
            pending.answer.set_exception(EngineUnavailable(reason))
        if pending.sent:
            self.supervisor.send(Cancel(pending.id))
        self._forget(pending)

    def fail_all(self, reason: str) -> None:
        """End every request, for a reason outside it."""
        for pending in list(self.ledger.requests.values()):
            self._refuse(pending, reason)
