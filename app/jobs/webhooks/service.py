"""Makes the calls that are due, and so many at once that nobody waits for a dead receiver."""

import asyncio
import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from app.errors import StoreUnavailable
from app.http.addresses import Address, Allowance
from app.jobs.database import OF_A_STATEMENT, Database, enduring
from app.jobs.job import Job
from app.jobs.webhooks import outbox
from app.jobs.webhooks.asking import Asking, happened
from app.jobs.webhooks.calling import Caller, Message, Outcome, Resolve, Resolver
from app.jobs.webhooks.outbox import Bounds, Delivery, DeliveryState, DeliveryStatus
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.signing import Signer

log = logging.getLogger(__name__)
Body = Callable[[Connection, Job], str]

_POLL_SECONDS = 1.0  # between two looks for calls that are due
_PRUNE_SECONDS = 600.0
_SLACK = 5.0  # seconds that the note of an attempt may take


@dataclass(frozen=True)
class Options:
    """What the settings say of webhooks."""

    secrets: Sequence[str] = ()
    unsigned: bool = False  # calls may be made without a signature, if there is no secret
    allowance: Allowance = field(default_factory=Allowance)
    schedule: Schedule = field(default_factory=Schedule)
    seconds: float = 10.0  # of an attempt
    bounds: Bounds = field(default_factory=Bounds)
    kept: float = 7 * 24 * 3600.0  # seconds, after which what ended is forgotten


class Webhooks:
    """Notes what is to be told, and tells it.

    `body` gives what is told of a job, as JSON, when it is noted. `sent` gives it anew when a call
    about an end is made, with files: they are in the store already, and are not to be there twice.
    Both may look things up in that transaction.
    """

    def __init__(
        self,
        database: Database,
        options: Options,
        body: Body,
        resolve: Resolve | None = None,
        sent: Body | None = None,
    ) -> None:
        self._database, self._options = database, options
        self._body, self._sent = body, sent
        self.asking = Asking(options.allowance, bool(options.secrets) or options.unsigned)
        self._caller = Caller(options.allowance, Signer(options.secrets), options.seconds)
        self._resolve = resolve or Resolver()
        self._calls: dict[asyncio.Task[None], Delivery] = {}
        self._lookups: dict[asyncio.Future[Sequence[Address]], Delivery] = {}
        self._ended = asyncio.Event()
        self._counts: Counter[str] = Counter()
        self._running: asyncio.Task[None] | None = None

    @property
    def counts(self) -> Mapping[str, int]:
        """Calls that were delivered and failed, and attempts that are to be made again."""
        names = {DeliveryState.WAITING: "retried"}
        return {names.get(state, state.value): self._counts[state] for state in DeliveryState}

    def note(self, connection: Connection, job: Job) -> None:
        """Note a call for what became of a job, if it is wanted; part of that transaction.

        A call that cannot be noted is logged, and the rest of the transaction goes on: it may be
        about other jobs as well. Only what the database cannot do now ends it.
        """
        hook = job.webhook
        event = hook and next((name for name in happened(job) if name in hook.events), None)
        if not hook or not event:
            return
        try:
            with connection.begin_nested():
                outbox.add(connection, job, event, hook.url, self._body(connection, job))
        except Exception as error:
            if isinstance(error, DBAPIError) and not isinstance(error, OF_A_STATEMENT):
                raise
            log.exception("a webhook of job %s could not be noted because of a bug", job.id)

    async def of(self, job_id: str) -> Sequence[DeliveryStatus]:
        """How far the calls for a job have got; raises `StoreUnavailable`."""
        return await self._database.run(lambda c: outbox.deliveries_of(c, job_id))

    async def start(self) -> None:
        """Begin to make calls."""
        self._running = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Make no more of them. One that is cut off is made again, by its id the same."""
        running = [self._running] if self._running else []
        tasks: list[asyncio.Future[Any]] = [*self._calls, *self._lookups, *running]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pruned = loop.time()
        while True:
            self._ended.clear()
            with enduring("webhooks could not be called"):
                if self._database.begun:
                    if self.asking.signed:  # else it is left to servers that have the secrets
                        await self._call_due()
                    if loop.time() - pruned > _PRUNE_SECONDS:
                        pruned = loop.time()
                        await self._database.run(lambda c: outbox.prune(c, self._options.kept))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_SECONDS):
                    await self._ended.wait()

    async def _call_due(self) -> None:
        """Begin as many calls as there is room for."""
        bounds, lease = self._options.bounds, self._options.seconds + _SLACK
        under_way = {*self._calls.values(), *self._lookups.values()}
        if len(under_way) >= bounds.calls:
            return
        due = await self._database.run(lambda c: outbox.claim(c, under_way, bounds, lease))
        for delivery in due:
            task = asyncio.create_task(self._call(delivery))
            self._calls[task] = delivery
            task.add_done_callback(self._done)

    async def _call(self, delivery: Delivery) -> None:
        """Make one; if what came of it cannot be noted, its lease ends, and it is made again."""
        try:
            resolve = functools.partial(self._look_up, delivery)
            message = await self._database.run(lambda c: self._message(c, delivery))
            outcome = await self._caller.call(message, resolve)
        except StoreUnavailable:
            raise
        except Exception:  # else it would be made again without end
            log.exception("webhook %s could not be called because of a bug", delivery.message.id)
            outcome = Outcome(error="the server failed; its log says why")
        schedule = self._options.schedule
        state = await self._database.run(lambda c: outbox.settle(c, delivery, outcome, schedule))
        self._counts[state] += 1
        if state is DeliveryState.FAILED:
            told = "webhook %s failed after %d attempts: %s"
            log.warning(told, delivery.message.id, delivery.attempt, outcome.error)

    def _message(self, connection: Connection, delivery: Delivery) -> Message:
        """What is sent: as it was noted, or of an end all that is still there."""
        job = outbox.job_of(connection, delivery)
        if self._sent is None or job is None or delivery.event not in happened(job):
            return delivery.message
        return replace(delivery.message, body=self._sent(connection, job))

    async def _look_up(self, delivery: Delivery, host: str, port: int) -> Sequence[Address]:
        """The addresses of a name. Its call counts as under way until the lookup has ended.

        A lookup goes on when its call is given up, and no client may fill the server with them.
        """
        lookup = asyncio.ensure_future(self._resolve(host, port))
        self._lookups[lookup] = delivery
        lookup.add_done_callback(self._looked_up)
        return await asyncio.shield(lookup)

    def _looked_up(self, lookup: "asyncio.Future[Sequence[Address]]") -> None:
        del self._lookups[lookup]
        self._ended.set()

    def _done(self, task: asyncio.Task[None]) -> None:
        del self._calls[task]
        self._ended.set()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, StoreUnavailable):
            log.error("a webhook could not be called because of a bug", exc_info=error)
