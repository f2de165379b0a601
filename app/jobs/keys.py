"""Answers that are kept by Idempotency-Key, so that a request that is sent again is not done again.

A key belongs to its client. While its request is being answered, a lease says so; a server that is
killed lets it end, and the request may then be sent again.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from app.errors import KeyInUse, KeyReused
from app.jobs.job import Job
from app.jobs.recording import Recorder, Sizes
from app.jobs.rows import now
from app.jobs.store import JobStore, NewJob, Place
from app.jobs.tables import KEYS

T = TypeVar("T")

_SIZES = Sizes()
_PARTS = 8  # of all bytes: after one of them, it is looked whether there are too many


@dataclass(frozen=True)
class Keyed:
    """A request with a key: whose, which, and what tells the request from others."""

    owner: str
    key: str
    fingerprint: str


@dataclass(frozen=True)
class Answer:
    """An answer as it is kept."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class Keys:
    """The keys of one store; `most` are kept of one client, with answers of so many bytes."""

    def __init__(
        self, store: JobStore, server: str, lease: float, most: int, sizes: Sizes = _SIZES
    ) -> None:
        self._store, self._server, self._most, self._sizes = store, server, most, sizes
        self._lease = timedelta(seconds=lease)
        self._held: set[tuple[str, str]] = set()  # being answered here
        self._added = 0  # bytes of answers, since it was looked whether all have too many
        self.recorder = Recorder(sizes)

    async def begin(self, keyed: Keyed) -> Answer | None:
        """The answer that is kept; None if the request is to be answered now.

        Raises:
            KeyInUse, KeyReused, StoreUnavailable
        """

        def begun(connection: Connection) -> Answer | None:
            return self._take(connection, keyed, {"lease": now(connection) + self._lease})

        answer = await self._run(begun)
        if answer is None:
            self._held.add((keyed.owner, keyed.key))
        return answer

    async def keep(self, keyed: Keyed, answer: Answer) -> None:
        """Keep the answer to a request that was begun here; forget it if it is too large."""
        columns = _columns(answer)
        if columns["size"] > self._sizes.largest:
            await self.drop(keyed)
            return
        where = sql.and_(_is(keyed), KEYS.c.server == self._server)
        self._held.discard((keyed.owner, keyed.key))
        await self._store.database.run(lambda c: self._write(c, keyed.owner, where, columns))

    async def drop(self, keyed: Keyed) -> None:
        """Forget a request that was begun here and came to nothing."""
        where = sql.and_(_is(keyed), KEYS.c.server == self._server)
        self._held.discard((keyed.owner, keyed.key))
        await self._store.database.run(lambda c: c.execute(sql.delete(KEYS).where(where)))

    async def find(self, keyed: Keyed) -> Answer | None:
        """The answer that is kept; None if there is none, and nothing is taken.

        Raises:
            KeyInUse, KeyReused, StoreUnavailable
        """

        def found(connection: Connection) -> Answer | None:
            row = connection.execute(sql.select(KEYS).where(_is(keyed))).one_or_none()
            return None if row is None else _answer(row, keyed, now(connection))

        return await self._store.database.run(found)

    async def accept(
        self, keyed: Keyed, new: NewJob, told: Callable[[Job, Place], Answer]
    ) -> tuple[Answer, tuple[Job, Place] | None]:
        """Accept a job and keep the answer to it, both or neither; the job, unless it was there.

        Raises:
            KeyInUse, KeyReused, TooManyJobs, StoreUnavailable
        """

        def accepted(connection: Connection) -> tuple[Answer, tuple[Job, Place] | None]:
            if kept := self._take(connection, keyed, {}):
                return kept, None
            made = self._store.add(connection, new)
            answer = told(*made)
            self._write(connection, keyed.owner, _is(keyed), _columns(answer))
            return answer, made

        return await self._run(accepted)

    async def beat(self) -> None:
        """Extend the leases of what is being answered here."""
        if not self._held:
            return
        held = sql.tuple_(KEYS.c.owner, KEYS.c.key).in_(sorted(self._held))
        where = sql.and_(held, KEYS.c.server == self._server)

        def beaten(connection: Connection) -> None:
            lease = now(connection) + self._lease
            connection.execute(sql.update(KEYS).where(where).values(lease=lease))

        await self._store.database.run(beaten)

    async def forget(self, before: datetime) -> None:
        """Forget the answers to requests that came before, and requests whose servers ended.

        And the oldest answers of all, if they have too many bytes together.
        """

        def forgotten(connection: Connection) -> None:
            over = sql.or_(KEYS.c.status.is_not(None), KEYS.c.lease < now(connection))
            connection.execute(sql.delete(KEYS).where(KEYS.c.created < before, over))
            _trim(connection, self._sizes.all)

        await self._store.database.run(forgotten)

    async def _run(self, work: Callable[[Connection], T]) -> T:
        """As the database does; of two servers that insert one key, the later finds the other's."""
        try:
            return await self._store.database.run(work)
        except IntegrityError:
            return await self._store.database.run(work)

    def _take(self, connection: Connection, keyed: Keyed, lease: dict[str, Any]) -> Answer | None:
        """The answer that is kept; or take the key, and give None."""
        time = now(connection)
        found = connection.execute(
            sql.select(KEYS).where(_is(keyed)).with_for_update()
        ).one_or_none()
        if found is not None:
            if answer := _answer(found, keyed, time):
                return answer
            connection.execute(sql.delete(KEYS).where(_is(keyed)))
        self._make_room(connection, keyed.owner)
        values: dict[str, Any] = {
            "owner": keyed.owner,
            "key": keyed.key,
            "fingerprint": keyed.fingerprint,
        }
        values |= {"created": time, "server": self._server, **lease}
        connection.execute(sql.insert(KEYS).values(values))
        return None

    def _write(
        self,
        connection: Connection,
        owner: str,
        where: sql.ColumnElement[bool],
        columns: Mapping[str, Any],
    ) -> None:
        """Write an answer, and forget the oldest ones that it leaves no room for."""
        change = {"server": None, "lease": None, **columns}
        connection.execute(sql.update(KEYS).where(where).values(change))
        _trim(connection, self._sizes.client, KEYS.c.owner == owner)
        self._added += columns["size"]
        if self._added > self._sizes.all // _PARTS:  # it takes a look at every key
            self._added = 0
            _trim(connection, self._sizes.all)

    def _make_room(self, connection: Connection, owner: str) -> None:
        """Forget the oldest answers of a client that has as many as are kept."""
        own = KEYS.c.owner == owner
        count = sql.select(sql.func.count()).where(own)
        if (over := connection.execute(count).scalar_one() - self._most + 1) > 0:
            oldest = sql.select(KEYS.c.key).where(own, KEYS.c.status.is_not(None))
            oldest = oldest.order_by(KEYS.c.created).limit(over)
            connection.execute(sql.delete(KEYS).where(own, KEYS.c.key.in_(oldest)))


def _trim(connection: Connection, most: int, *whose: sql.ColumnElement[bool]) -> None:
    """Forget the oldest answers, so that the others have at most so many bytes."""
    table = KEYS.c
    total = sql.select(sql.func.coalesce(sql.func.sum(table.size), 0)).where(*whose)
    if connection.execute(total).scalar_one() <= most:
        return
    newest = (table.created.desc(), table.owner, table.key)
    running = sql.func.sum(table.size).over(order_by=newest).label("running")
    summed = (
        sql.select(table.owner, table.key, running)
        .where(table.status.is_not(None), *whose)
        .subquery()
    )
    over = sql.select(summed.c.owner, summed.c.key).where(summed.c.running > most)
    connection.execute(sql.delete(KEYS).where(sql.tuple_(table.owner, table.key).in_(over)))


def _is(keyed: Keyed) -> sql.ColumnElement[bool]:
    return sql.and_(KEYS.c.owner == keyed.owner, KEYS.c.key == keyed.key)


def _answer(row: "sql.Row[Any]", keyed: Keyed, time: datetime) -> Answer | None:
    """The answer that a row keeps; None if its server has ended. Raises `KeyInUse`, `KeyReused`."""
    if row.fingerprint != keyed.fingerprint:
        raise KeyReused("this Idempotency-Key came with another request before")
    if row.status is not None:
        headers = tuple((name, value) for name, value in json.loads(row.headers))
        return Answer(row.status, headers, row.body)
    if row.lease is not None and row.lease > time:
        raise KeyInUse("the request with this Idempotency-Key is still being answered")
    return None


def _columns(answer: Answer) -> dict[str, Any]:
    headers = json.dumps(answer.headers)
    size = len(headers) + len(answer.body)
    return {"status": answer.status, "headers": headers, "body": answer.body, "size": size}
