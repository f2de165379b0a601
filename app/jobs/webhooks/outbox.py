"""Calls that are to be made, in the store: written with the change that they tell of."""

import secrets
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from app.jobs.job import Job
from app.jobs.rows import SELECT, fetch, now, owned
from app.jobs.tables import WEBHOOK_DELIVERIES
from app.jobs.webhooks.calling import Message, Outcome
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.targets import Target

_TABLE = WEBHOOK_DELIVERIES.c


class DeliveryState(StrEnum):
    """waiting -> delivered | failed."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True)
class Delivery:
    """A call that was claimed: what it tells of, and the attempt that is made now, from 1."""

    message: Message
    job: str  # its id
    event: str
    owner: str
    host: str
    attempt: int


@dataclass(frozen=True)
class DeliveryStatus:
    """How far a call has got; `due` is when it is tried next."""

    event: str
    state: DeliveryState
    attempts: int
    status: int | None
    error: str | None
    due: datetime | None


@dataclass(frozen=True)
class Bounds:
    """How many calls may be under way: in all, to one host, and of one client's jobs."""

    calls: int = 64
    host: int = 4
    owner: int = 16


def add(connection: Connection, job: Job, event: str, url: str, body: str) -> None:
    """Note a call, as part of a transaction."""
    host, moment = str(Target.parse(url).host), now(connection)
    connection.execute(
        sql.insert(WEBHOOK_DELIVERIES).values(
            id=f"msg_{secrets.token_urlsafe(18)}",
            job=job.id,
            owner=job.owner,
            event=event,
            url=url,
            host=host,
            body=body,
            created=moment,
            state=DeliveryState.WAITING,
            attempts=0,
            due=moment,
        )
    )


def claim(
    connection: Connection, under_way: Collection[Delivery], bounds: Bounds, lease: float
) -> Sequence[Delivery]:
    """Calls that are due, with room for each; new ones before those that failed.

    If nothing is heard of one for `lease` seconds, as its server died, it is due again.
    """
    hosts = Counter(delivery.host for delivery in under_way)
    owners = Counter(delivery.owner for delivery in under_way)
    moment = now(connection)
    claimed: list[Delivery] = []
    while (room := bounds.calls - len(under_way) - len(claimed)) > 0:
        full_hosts = [host for host, calls in hosts.items() if calls >= bounds.host]
        full_owners = [owner for owner, calls in owners.items() if calls >= bounds.owner]
        due = (
            sql.select(WEBHOOK_DELIVERIES)
            .where(
                _TABLE.state == DeliveryState.WAITING,
                _TABLE.due <= moment,
                _TABLE.host.not_in(full_hosts),
                _TABLE.owner.not_in(full_owners),
            )
            .order_by(_TABLE.attempts, _TABLE.due)
            .limit(room)
        )
        rows = connection.execute(due).all()
        if not rows:
            break
        for row in rows:  # those without room have a host or an owner that is full from now on
            if hosts[row.host] >= bounds.host or owners[row.owner] >= bounds.owner:
                continue
            taking = (
                sql.update(WEBHOOK_DELIVERIES)
                .where(_TABLE.id == row.id, _TABLE.attempts == row.attempts)
                .values(attempts=row.attempts + 1, due=moment + timedelta(seconds=lease))
            )
            if connection.execute(taking).rowcount:  # else another server was faster
                hosts[row.host] += 1
                owners[row.owner] += 1
                message = Message(row.id, row.url, row.body)
                attempt = row.attempts + 1
                claimed.append(Delivery(message, row.job, row.event, row.owner, row.host, attempt))
    return claimed


def job_of(connection: Connection, delivery: Delivery) -> Job | None:
    """The job that a call tells of, as it is now; None if it is no longer kept."""
    mine = SELECT.where(owned(delivery.owner, delivery.job))
    return next(iter(fetch(connection, mine)), None)


def settle(
    connection: Connection, delivery: Delivery, outcome: Outcome, schedule: Schedule
) -> DeliveryState:
    """Note what came of an attempt, and when the next one is due; what that makes of the call."""
    moment = now(connection)
    wait = None if outcome.gone else schedule.wait(delivery.attempt, outcome.retry_after)
    changing = sql.update(WEBHOOK_DELIVERIES).where(_TABLE.id == delivery.message.id)
    told = {"status": outcome.status, "error": outcome.error}
    if outcome.delivered:
        state = DeliveryState.DELIVERED
    else:
        state = DeliveryState.FAILED if wait is None else DeliveryState.WAITING
        # Another server may have claimed it meanwhile.
        changing = changing.where(_TABLE.attempts == delivery.attempt)
    if wait is None or outcome.delivered:
        values = {"state": state, "ended": moment, "body": ""}  # it may hold a result
    else:
        values = {"due": moment + timedelta(seconds=wait)}
    connection.execute(changing.values(**told, **values))
    return state


def prune(connection: Connection, seconds: float) -> None:
    """Forget what ended so long ago."""
    ended = _TABLE.ended < now(connection) - timedelta(seconds=seconds)
    connection.execute(sql.delete(WEBHOOK_DELIVERIES).where(ended))


def deliveries_of(connection: Connection, job_id: str) -> Sequence[DeliveryStatus]:
    """The calls that tell of a job, the oldest first."""
    found = sql.select(WEBHOOK_DELIVERIES).where(_TABLE.job == job_id).order_by(_TABLE.created)
    return [
        DeliveryStatus(
            row.event,
            DeliveryState(row.state),
            row.attempts,
            row.status,
            row.error,
            row.due if row.state == DeliveryState.WAITING else None,
        )
        for row in connection.execute(found)
    ]
