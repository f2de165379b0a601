"""Calls to webhooks: what is sent, and what is made of the answers."""

import asyncio
import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from app.http.addresses import Allowance
from app.jobs.webhooks.calling import Caller
from app.jobs.webhooks.outbox import Bounds, DeliveryStatus
from app.jobs.webhooks.schedule import Schedule
from tests.engine import asynchronous, until
from tests.jobs.desk import QUICK, SECRETS, Lookup, body, desk, job_of
from tests.jobs.receivers import OK, cut, receiving, silent, status


@asynchronous
async def test_a_call_is_signed_with_every_secret_and_says_what_the_job_says(
    tmp_path: Path,
) -> None:
    async with receiving() as receiver, desk(tmp_path) as at:
        job = job_of(receiver.url)
        await at.note(job)
        told = await at.ends()
        assert (told.state, told.attempts, told.status) == ("delivered", 1, 200)
        (received,) = receiver.received
        assert received.body.decode() == body(job)
        assert received.headers[""] == "POST /hook?a=1 HTTP/1.1"
        assert received.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert received.headers["content-type"] == "application/json"
        for secret in SECRETS:
            assert Verifier(secret).verify(received.body, received.headers) == json.loads(body(job))
        stranger = Verifier("whsec_" + base64.b64encode(b"3" * 32).decode())
        with pytest.raises(Exception, match="No matching signature"):
            stranger.verify(received.body, received.headers)
        assert at.webhooks.counts == {"delivered": 1, "failed": 0, "retried": 0}


@asynchronous
async def test_without_a_secret_there_is_no_signature(tmp_path: Path) -> None:
    options = replace(QUICK, secrets=(), unsigned=True)
    async with receiving() as receiver, desk(tmp_path, options) as at:
        await at.note(job_of(receiver.url))
        await at.ends()
        assert "webhook-signature" not in receiver.received[0].headers
        assert receiver.received[0].headers["webhook-id"].startswith("msg_")


@asynchronous
async def test_a_server_without_a_secret_leaves_calls_to_others(tmp_path: Path) -> None:
    async with receiving() as receiver:
        async with desk(tmp_path, replace(QUICK, secrets=())) as at:
            await at.note(job_of(receiver.url))
            await asyncio.sleep(0.1)
            assert (await at.state()).attempts == 0
        async with desk(tmp_path) as at:
            assert (await at.ends()).attempts == 1
        assert "webhook-signature" in receiver.received[0].headers


@asynchronous
async def test_three_failures_and_then_success_are_four_attempts_of_one_message(
    tmp_path: Path,
) -> None:
    async with receiving(*[status(500)] * 3, OK) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        told = await at.ends()
        assert (told.state, told.attempts, told.status, told.error) == ("delivered", 4, 200, None)
        assert len({received.headers["webhook-id"] for received in receiver.received}) == 1
        for received in receiver.received:
            Verifier(SECRETS[0]).verify(received.body, received.headers)
        assert at.webhooks.counts["retried"] == 3


@pytest.mark.parametrize(
    ("answer", "attempts", "code", "error"),
    [
        (status(500), 4, 500, "status 500"),
        (status(404), 4, 404, "status 404"),
        (status(410), 1, 410, "status 410"),
        (cut, 4, None, "the connection ended without an answer"),
        (b"what?\r\n\r\n", 4, None, "the connection ended without an answer"),
        (b"", 4, None, "the connection ended without an answer"),
    ],
    ids=["500", "404", "410", "cut", "no HTTP", "nothing"],
)
@asynchronous
async def test_what_fails_for_good_is_kept_and_says_why(
    tmp_path: Path, answer: Any, attempts: int, code: int | None, error: str
) -> None:
    async with receiving(answer) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        told = await at.ends()
        assert told == DeliveryStatus("succeeded", told.state, attempts, code, error, None)
        assert told.state == "failed"
        assert receiver.connections == attempts


@asynchronous
async def test_a_call_that_fails_because_of_a_bug_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Caller, "call", call)
    async with desk(tmp_path) as at:
        await at.note(job_of("https://example.com/"))
        told = await at.ends()
        assert (told.state, told.status) == ("failed", None)
        assert told.error == "the server failed; its log says why"


@asynchronous
async def test_a_redirect_is_followed_nowhere(tmp_path: Path) -> None:
    """Neither to a private address nor to a public one: it is a failure."""
    async with receiving() as trap:
        for code in (301, 302, 303, 307, 308):
            moved = status(code, f"location: {trap.url}")
            folder = tmp_path / str(code)
            folder.mkdir()
            async with receiving(moved) as receiver, desk(folder) as at:
                await at.note(job_of(receiver.url))
                assert (await at.ends()).error == f"status {code}"
        assert trap.connections == 0


@asynchronous
async def test_a_huge_answer_is_not_read(tmp_path: Path) -> None:
    taken = 0

    async def huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        for _ in range(1000):
            writer.write(bytes(1 << 20))
            await writer.drain()
            taken += 1

    async with receiving(huge) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        assert (await at.ends()).state == "delivered"
        await until(lambda: receiver.open == 0)
        assert taken < 16  # MiB: what fits into the buffers of two sockets


@asynchronous
async def test_a_huge_head_is_a_failure(tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nx: " + b"y" * (1 << 20) + b"\r\n\r\n"
    async with receiving(head) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        assert (await at.ends()).state == "failed"


@asynchronous
async def test_a_dead_receiver_delays_nobody(tmp_path: Path) -> None:
    """A receiver that says nothing holds as many calls as one host may, and those of others go."""
    options = replace(QUICK, bounds=Bounds(calls=6, host=2, owner=4))
    lookup = Lookup([["127.0.0.1"]])
    async with (
        receiving(silent) as dead,
        receiving() as alive,
        desk(tmp_path, options, lookup) as at,
    ):
        await at.note(*(job_of(dead.url, f"dead{k}") for k in range(20)))
        await until(lambda: dead.open == 2)
        other = alive.url.replace("127.0.0.1", "alive.example.com")
        allowing = Allowance.of(["127.0.0.1"])
        assert allowing == options.allowance
        await at.note(*(job_of(other, f"alive{k}") for k in range(10)))
        for k in range(10):
            assert (await at.ends(f"alive{k}")).state == "delivered"
        assert dead.most_open == 2
        assert alive.most_open <= 2


@asynchronous
async def test_one_client_s_dead_receivers_delay_no_other_client(tmp_path: Path) -> None:
    options = replace(QUICK, bounds=Bounds(calls=4, host=2, owner=2))
    lookup = Lookup([["127.0.0.1"]])
    async with (
        receiving(silent) as dead,
        receiving() as alive,
        desk(tmp_path, options, lookup) as at,
    ):
        for k in range(10):
            url = dead.url.replace("127.0.0.1", f"dead{k}.example.com")
            await at.note(job_of(url, f"dead{k}"))
        await until(lambda: dead.open == 2)
        await at.note(job_of(alive.url, "mine", "you"))
        assert (await at.ends("mine")).state == "delivered"
        assert dead.most_open == 2


@asynchronous
async def test_a_silent_receiver_is_given_up_in_time(tmp_path: Path) -> None:
    options = replace(QUICK, seconds=0.05, schedule=Schedule(2, 0.001))
    async with receiving(silent) as dead, desk(tmp_path, options) as at:
        await at.note(job_of(dead.url))
        told = await at.ends()
        assert (told.state, told.error) == ("failed", "no answer within 0.05 seconds")
        await until(lambda: dead.open == 0)
