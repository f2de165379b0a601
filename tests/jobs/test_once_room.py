"""How much is kept by Idempotency-Key, and what becomes of what is too much."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sql
from alembic import command
from alembic.config import Config
from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Message

from app.errors import KeyInUse
from app.jobs.database import Database
from app.jobs.keys import Answer, Keyed, Keys
from app.jobs.recording import Recorder, Sizes
from app.jobs.rows import now
from app.jobs.store import JobStore, NewJob, Room
from app.jobs.tables import KEYS
from app.routes.jobs.once import once
from tests.engine import asynchronous

SIZES = Sizes(client=1000, all=2000)


@asynccontextmanager
async def keeping(url: str, sizes: Sizes = SIZES) -> AsyncIterator[Keys]:
    database = Database(url)
    try:
        yield Keys(JobStore(database, Room(9, 9, 9, 9)), "server", 60, 99, sizes)
    finally:
        await database.close()


def keyed(key: str, owner: str = "me") -> Keyed:
    return Keyed(owner, key, "f" * 64)


def answer(size: int) -> Answer:
    """One that has so many bytes with its headers."""
    return Answer(200, (), b"x" * (size - len("[]")))


async def kept(keys: Keys) -> list[str]:
    """The keys with an answer, the oldest first."""
    found = sql.select(KEYS.c.owner + KEYS.c.key).where(KEYS.c.status.is_not(None))
    found = found.order_by(KEYS.c.created)
    return await keys._store.database.run(lambda c: list(c.execute(found).scalars()))


async def answered(keys: Keys, key: str, size: int, owner: str = "me") -> None:
    assert await keys.begin(keyed(key, owner)) is None
    await keys.keep(keyed(key, owner), answer(size))


@asynchronous
async def test_the_oldest_answers_of_a_client_go_where_they_have_too_many_bytes(
    database_url: str,
) -> None:
    """As few as make room. What is being answered stays, and so do other clients' answers."""
    async with keeping(database_url) as keys:
        await answered(keys, "0", 900, "you")
        assert await keys.begin(keyed("open")) is None
        for key, size in (("0", 400), ("1", 200), ("2", 400)):
            await answered(keys, key, size)
        assert await kept(keys) == ["you0", "me0", "me1", "me2"]
        await answered(keys, "3", 400)
        assert await kept(keys) == ["you0", "me1", "me2", "me3"]
        await answered(keys, "4", 1000)
        assert await kept(keys) == ["you0", "me4"]
        with pytest.raises(KeyInUse):
            await keys.begin(keyed("open"))
        assert await keys.begin(keyed("4")) == answer(1000)


@asynchronous
async def test_the_oldest_answers_of_all_go_where_they_have_too_many_bytes(
    database_url: str,
) -> None:
    async with keeping(database_url) as keys:
        for owner in "abc":
            await answered(keys, "0", 900, owner)
        assert await kept(keys) == ["b0", "c0"]
    async with keeping(database_url, Sizes(client=1000, all=1000)) as keys:  # less than before
        await keys.forget(await keys._store.database.run(now) - keys._lease)
        assert await kept(keys) == ["c0"]


@asynchronous
async def test_an_answer_that_is_too_large_is_not_kept(database_url: str) -> None:
    """Its key is free at once, and no other answer goes."""
    async with keeping(database_url) as keys:
        await answered(keys, "0", 500)
        await answered(keys, "1", 1001)
        assert await kept(keys) == ["me0"]
        assert await keys.begin(keyed("1")) is None


@asynchronous
async def test_answers_that_are_jobs_count_as_well(database_url: str) -> None:
    async with keeping(database_url) as keys:
        new = NewJob("me", "tiny", "", "native", {}, b"", 1, 1, 0)

        def told(*_: object) -> Answer:
            return answer(600)

        for key in "01":
            assert (await keys.accept(keyed(key), new, told))[1] is not None
        assert await kept(keys) == ["me1"]


async def streamed(
    keys: Keys, whose: Keyed, parts: int, after_one: Awaitable[object] | None = None
) -> bytes:
    """What a client gets of a stream of parts of 300 bytes; the second part may have to wait."""
    sent = b""

    async def stream() -> AsyncIterator[bytes]:
        for k in range(parts):
            if k == 1 and after_one is not None:
                await after_one
            yield b"y" * 300

    async def begun() -> Response:
        return StreamingResponse(stream())

    async def send(message: Message) -> None:
        nonlocal sent
        sent += message.get("body", b"")

    response = await once(keys, whose, begun)
    scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
    await response(scope, lambda: asyncio.sleep(60), send)
    return sent


@asynchronous
async def test_a_stream_that_is_too_large_is_sent_and_not_kept(tmp_path: Path) -> None:
    """Nothing of it is held from then on; its key is in use until its end."""
    async with keeping(f"sqlite:///{tmp_path / 'jobs.db'}") as keys:
        assert await streamed(keys, keyed("small"), 3) == b"y" * 900
        assert await kept(keys) == ["mesmall"]
        seen = []

        async def look() -> None:
            seen.append(dict(keys.recorder.held))
            with pytest.raises(KeyInUse):
                await keys.begin(keyed("large"))

        assert await streamed(keys, keyed("large"), 4, look()) == b"y" * 1200
        assert await kept(keys) == ["mesmall"]
        assert await keys.begin(keyed("large")) is None
        assert seen == [{"me": 300}]
        assert not keys.recorder.held


@asynchronous
async def test_streams_of_one_client_share_what_may_be_held_of_them(tmp_path: Path) -> None:
    """One that finds no room is not kept; those of other clients are, while all have room."""
    async with keeping(f"sqlite:///{tmp_path / 'jobs.db'}", Sizes()) as keys:
        keys.recorder = Recorder(Sizes(client=1000, all=1400))

        async def others() -> None:  # 300 bytes of the first are held
            await streamed(keys, keyed("second"), 3)
            await streamed(keys, keyed("third", "you"), 3, more())

        async def more() -> None:  # and 300 of the third
            await streamed(keys, keyed("fourth", "they"), 3)
            await streamed(keys, keyed("fifth", "they"), 2)

        await streamed(keys, keyed("first"), 2, others())
        assert await kept(keys) == ["mefirst", "youthird", "theyfifth"]
        assert not keys.recorder.held


@asynchronous
async def test_answers_of_an_earlier_version_count(database_url: str) -> None:
    def back(connection: sql.Connection) -> None:
        config = Config()
        config.set_main_option("script_location", "app.jobs:migrations")
        config.attributes["connection"] = connection
        command.downgrade(config, "0003")

    async with keeping(database_url) as keys:
        await answered(keys, "0", 500)
        await keys.begin(keyed("open"))
        await keys._store.database.run(back)
    async with keeping(database_url) as keys:
        sizes = sql.select(KEYS.c.key, KEYS.c.size)
        found = await keys._store.database.run(lambda c: c.execute(sizes).all())
        assert dict(tuple(row) for row in found) == {"0": 500, "open": 0}
