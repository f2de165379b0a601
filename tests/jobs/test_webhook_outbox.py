"""Calls in the store: which are noted, and that they survive restarts."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sql

from app.jobs.job import JobStatus, Webhook
from app.jobs.webhooks.asking import NATIVE, REPLICATE
from app.jobs.webhooks.schedule import Schedule
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
