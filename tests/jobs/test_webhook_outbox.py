"""Calls in the store: which are noted, and that they survive restarts."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql

from app.errors import StoreUnavailable
from app.jobs.database import Database
from app.jobs.job import Job, JobStatus, Webhook
from app.jobs.tables import COUNTERS
from app.jobs.webhooks.asking import NATIVE, REPLICATE
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.service import Webhooks
from tests.engine import asynchronous, until
from tests.jobs.desk import QUICK, desk, due_now, job_of
from tests.jobs.receivers import OK, receiving, silent, status


@asynchronous
async def test_calls_survive_a_restart_between_attempts(tmp_path: Path) -> None:
    later = replace(QUICK, schedule=Schedule(4, 3600))
    async with receiving(status(503), OK) as receiver:
        async with desk(tmp_path, later) as at:
            await at.note(job_of(receiver.url))
            await until(lambda: receiver.connections == 1)
            while (await at.state()).status is None:
                await asyncio.sleep(0.005)
            told = await at.state()
            assert (told.state, told.attempts, told.status) == ("waiting", 1, 503)
        async with desk(tmp_path) as at:
            await due_now(at)
            assert (await at.ends()).attempts == 2
        first, second = receiver.received
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body


@asynchronous
async def test_an_attempt_that_a_restart_cut_off_is_made_again(tmp_path: Path) -> None:
    async with receiving(silent, OK) as receiver:
        async with desk(tmp_path) as at:
            await at.note(job_of(receiver.url))
            await until(lambda: receiver.received)
        async with desk(tmp_path) as at:
            told = await at.state()
            assert (told.state, told.attempts) == ("waiting", 1)
            await due_now(at)  # as when its lease has ended
            assert (await at.ends()).attempts == 2


@asynchronous
async def test_two_servers_make_each_call_once(tmp_path: Path) -> None:
    async with receiving() as receiver, desk(tmp_path) as one, desk(tmp_path):
        await one.note(*(job_of(receiver.url, f"job{k}") for k in range(30)))
        for k in range(30):
            assert (await one.ends(f"job{k}")).attempts == 1
        assert receiver.connections == 30


@asynchronous
async def test_a_transaction_that_fails_notes_no_call(tmp_path: Path) -> None:
    async with receiving() as receiver, desk(tmp_path) as at:

        def broken(connection: sql.Connection) -> None:
            at.webhooks.note(connection, job_of(receiver.url))
            raise KeyError

        with pytest.raises(KeyError):
            await at.database.run(broken)
        assert await at.webhooks.of("job") == []


@pytest.mark.parametrize(
    ("events", "jobs", "told"),
    [
        (NATIVE.default, ["running", "succeeded"], ["succeeded"]),
        (("started", "failed"), ["running", "failed"], ["started", "failed"]),
        (("failed",), ["running", "succeeded"], []),
        (REPLICATE.default, ["running", "succeeded"], ["start", "completed"]),
        (("output",), ["running", "succeeded"], ["output"]),
        (("output", "logs"), ["running", "canceled"], []),
        (("completed",), ["running", "canceled"], ["completed"]),
    ],
)
@asynchronous
async def test_only_what_is_wanted_is_told(
    tmp_path: Path, events: tuple[str, ...], jobs: list[str], told: list[str]
) -> None:
    async with receiving() as receiver, desk(tmp_path) as at:
        hook = Webhook(receiver.url, events)
        for state in jobs:
            await at.note(job_of(receiver.url, webhook=hook, status=JobStatus(state)))
        await at.note(job_of(receiver.url, webhook=None))
        assert [each.event for each in await at.webhooks.of("job")] == told


@pytest.mark.parametrize("wrong", ["body", "text", "row"])
@asynchronous
async def test_a_call_that_cannot_be_noted_undoes_nothing_else(
    wrong: str, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its body cannot be made, is no text, or its row is refused; the log says so."""

    def told(connection: sql.Connection, job: Job) -> str:
        if job.id == "good":
            return "{}"
        if wrong == "body":
            raise ZeroDivisionError
        if wrong == "row":  # half of a note is not left behind either
            connection.execute(sql.insert(COUNTERS).values(name="half", value=1))
            connection.execute(sql.insert(COUNTERS).values(name="half", value=2))
        return "\ud800"

    def noted(connection: sql.Connection) -> None:
        for name in ("bad", "good"):
            webhooks.note(connection, job_of("https://example.com/", name))
            connection.execute(sql.insert(COUNTERS).values(name=name, value=7))

    database = Database(database_url)
    webhooks = Webhooks(database, QUICK, told)
    await database.run(noted)
    values = sql.select(COUNTERS.c.name).where(COUNTERS.c.name.in_(["bad", "good", "half"]))
    assert await database.run(lambda c: set(c.execute(values).scalars())) == {"bad", "good"}
    assert await webhooks.of("bad") == []
    assert [call.state for call in await webhooks.of("good")] == ["waiting"]
    assert caplog.text.count("a webhook of job bad could not be noted because of a bug") == 1
    await database.close()


@asynchronous
async def test_a_database_that_fails_while_a_call_is_noted_undoes_all(database_url: str) -> None:
    """SQLite may not grow any more, and PostgreSQL ends the connection."""

    def broken(connection: sql.Connection, job: Job) -> str:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA max_page_count = 1")
        else:
            connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
        return "x" * 10**6

    def noted(connection: sql.Connection) -> None:
        connection.execute(sql.insert(COUNTERS).values(name="kept", value=7))
        webhooks.note(connection, job_of("https://example.com/"))

    database = Database(database_url)
    webhooks = Webhooks(database, QUICK, broken)
    with pytest.raises(StoreUnavailable):
        await database.run(noted)
    kept = sql.select(COUNTERS.c.value).where(COUNTERS.c.name == "kept")
    assert await database.run(lambda c: c.execute(kept).scalar()) is None
    await database.close()
