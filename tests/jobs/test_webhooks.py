"""Calls to webhooks: what may be named, what is called, and what is made of the answers."""

import asyncio
import base64
import ipaddress
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from pydantic import ValidationError
from standardwebhooks.webhooks import Webhook as Verifier

from app.errors import InvalidRequest
from app.http.addresses import Address, Allowance, host_of, is_public
from app.jobs.database import Database
from app.jobs.job import Job, JobStatus, Webhook
from app.jobs.tables import WEBHOOK_DELIVERIES
from app.jobs.webhooks.asking import NATIVE, REPLICATE, Asking
from app.jobs.webhooks.calling import Caller
from app.jobs.webhooks.outbox import Bounds, DeliveryStatus
from app.jobs.webhooks.schedule import Schedule, retry_after
from app.jobs.webhooks.service import Options, Webhooks
from app.settings import Settings
from tests.engine import asynchronous, until
from tests.jobs.receivers import OK, Receiver, cut, receiving, silent, status

SECRETS = ["whsec_" + base64.b64encode(bytes([k]) * 32).decode() for k in (1, 2)]
LOOPBACK = Allowance.of(["127.0.0.1"])
QUICK = Options(
    secrets=SECRETS, allowance=LOOPBACK, schedule=Schedule(attempts=4, first=0.001), seconds=5
)
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job_of(url: str, job_id: str = "job", owner: str = "me", **more: Any) -> Job:
    job = Job(
        number=1,
        id=job_id,
        owner=owner,
        model="tiny",
        digest="",
        dialect="native",
        request={},
        work=b"",
        images=1,
        status=JobStatus.SUCCEEDED,
        created=NOW,
        webhook=Webhook(url, NATIVE.default),
    )
    return replace(job, **more)


def body(job: Job) -> str:
    return json.dumps({"id": job.id, "status": job.status, "prompt": "Öl 🎨"})


@dataclass
class Desk:
    """Webhooks over a database in a file, that outlives them."""

    webhooks: Webhooks
    database: Database

    async def note(self, *jobs: Job) -> None:
        def noted(connection: sql.Connection) -> None:
            for job in jobs:
                self.webhooks.note(connection, job)

        await self.database.run(noted)

    async def state(self, job_id: str = "job") -> DeliveryStatus:
        (found,) = await self.webhooks.of(job_id)
        return found

    async def ends(self, job_id: str = "job") -> DeliveryStatus:
        while (found := await self.state(job_id)).state == "waiting":
            await asyncio.sleep(0.005)
        return found


@dataclass
class Lookup:
    """A resolver with an answer for each time; it notes what it was asked."""

    answers: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked.append(host)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return [ipaddress.ip_address(each) for each in answer]


@asynccontextmanager
async def desk(
    folder: Path, options: Options = QUICK, resolve: Lookup | None = None
) -> AsyncIterator[Desk]:
    database = Database(f"sqlite:///{folder / 'jobs.db'}")
    webhooks = Webhooks(database, options, lambda _, job: body(job), resolve)
    webhooks._ended = Awake()
    await webhooks.start()
    try:
        yield Desk(webhooks, database)
    finally:
        await webhooks.close()
        await database.close()


class Awake(asyncio.Event):
    """Lets the next look for calls come at once, so that tests need not wait for a second."""

    async def wait(self) -> Any:
        await asyncio.sleep(0.005)


# What is called, and how.


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


# Restarts.


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


async def due_now(at: Desk) -> None:
    earlier = datetime.now(UTC) - timedelta(seconds=1)
    await at.database.run(lambda c: c.execute(sql.update(WEBHOOK_DELIVERIES).values(due=earlier)))


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


# Which events.


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


# Which addresses.

PRIVATE = """
127.0.0.1 127.8.9.1 0.0.0.0 10.0.0.1 172.16.0.1 172.31.255.255 192.168.0.1 169.254.169.254
100.64.0.1 100.127.255.254 192.0.0.1 192.0.2.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1
239.255.255.250 240.0.0.1 255.255.255.255 192.88.99.1 :: ::1 ::ffff:8.8.8.8 ::ffff:127.0.0.1
::8.8.8.8 64:ff9b::8.8.8.8 64:ff9b::7f00:1 64:ff9b:1::a00:1 2002:7f00:1::1 2002:808:808::1
2001::1 2001:db8::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1 100::1
"""


@pytest.mark.parametrize("text", PRIVATE.split())
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))
    host = f"[{text}]" if ":" in text else text
    wrong = wrong_of(f"http://{host}/")
    assert "DARKROOM_WEBHOOK_ALLOW" in wrong
    allowing = Asking(Allowance.of([text]), signed=True)
    assert allowing.webhook({"webhook": f"https://{host}:8443/x"}, NATIVE)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1"]
)
def test_public_addresses(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


def wrong_of(url: object, **more: object) -> str:
    asking = Asking(Allowance(), signed=True)
    with pytest.raises(InvalidRequest) as raised:
        asking.webhook({"webhook": url, **more}, NATIVE)
    return raised.value.wrong["webhook"]


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://0/",
        "http://1.2.3/",
        "http://256.1.1.1/",
        "http://localhost/",
        "http://LOCALHOST./",
        "http://a.localhost:80/",
        "http://[::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://::1/",
        "http://user@example.com/",
        "http://user:secret@example.com/",
        "http://@example.com/",
        "http://example.com/#part",
        "http://example.com/#",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:00004431234/",
        "http://8.8.8.8:0000080000/",
        "http://example.com:8x/",
        "http://example.com:+8/",
        "http://example.com:8 /",
        "http://exa mple.com/",
        "http://example.com\\@127.0.0.1/",
        "http://example.com/\r\nHost: x",
        "http://example.com/\u00e9",
        "http://\uff11\uff12\uff17.0.0.1/",
        "http://ex%61mple.com/",
        "http://example..com/",
        "http://-example.com/",
        "http://" + "a" * 64 + ".com/",
        "http:///path",
        "http:example.com",
        "//example.com/",
        "example.com",
        "ftp://example.com/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "https://example.com/" + "a" * 2048,
        " https://example.com/",
        7,
        ["https://example.com/"],
        {"url": "https://example.com/"},
        True,
    ],
)
def test_addresses_of_webhooks_that_are_refused(url: object) -> None:
    wrong = wrong_of(url)
    assert "allowed: " in wrong or "must be a URL" in wrong
    assert len(wrong) < 400
    assert "\n" not in wrong


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", "example.com"),
        ("HTTPS://Example.COM.:8443/a/b?c=d&e=%20", "example.com"),
        ("http://xn--bcher-kva.example/", "xn--bcher-kva.example"),
        ("http://a_b.example:1/", "a_b.example"),
        ("https://[2606:4700::1]:443/", ipaddress.ip_address("2606:4700::1")),
        ("https://8.8.8.8/", ipaddress.ip_address("8.8.8.8")),
    ],
)
def test_addresses_of_webhooks_that_are_taken(url: str, host: object) -> None:
    from app.jobs.webhooks.targets import Target

    taken = Asking(Allowance(), signed=True).webhook({"webhook": url}, NATIVE)
    assert taken == Webhook(url, NATIVE.default)
    assert Target.parse(url).host == host


def test_names_and_networks_that_are_allowed() -> None:
    allowance = Allowance.of(["hooks.internal", "10.1.0.0/16", "fd00::/8", "[::1]", "LocalHost"])
    one, two, three = map(ipaddress.ip_address, ("10.1.2.3", "10.2.0.1", "fd12::1"))
    assert allowance.permits("anything.example", one)
    assert not allowance.permits("anything.example", two)
    assert allowance.permits("hooks.internal", two)
    assert allowance.permits("anything.example", three)
    asking = Asking(allowance, signed=True)
    assert asking.webhook({"webhook": "http://localhost:9/"}, NATIVE)


# A name is looked up once, and what it had then is what is called.


@asynchronous
async def test_a_name_that_has_another_address_the_second_time_leads_nowhere(
    tmp_path: Path,
) -> None:
    async with receiving(status(500)) as receiver:
        trap = Receiver([OK])
        server = await asyncio.start_server(trap.serve, "127.0.0.2", receiver.port)
        lookup = Lookup([["127.0.0.1"], ["127.0.0.2"]])
        async with desk(tmp_path, resolve=lookup) as at:
            await at.note(job_of(f"http://rebound.example.com:{receiver.port}/"))
            told = await at.ends()
            assert (told.attempts, told.error) == (4, "the host has no address that may be called")
        assert receiver.connections == 1
        assert receiver.received[0].headers["host"] == f"rebound.example.com:{receiver.port}"
        assert lookup.asked == ["rebound.example.com"] * 4  # once for each attempt
        assert trap.connections == 0
        server.close()


@asynchronous
async def test_only_the_addresses_of_a_name_that_may_be_called_are(tmp_path: Path) -> None:
    """Also where the first one has nobody: the next is tried."""
    async with receiving() as receiver:
        options = replace(QUICK, allowance=Allowance.of(["127.0.0.1", "127.0.0.9"]))
        lookup = Lookup([["10.0.0.1", "127.0.0.9", "::ffff:127.0.0.1", "127.0.0.1"]])
        async with desk(tmp_path, options, lookup) as at:
            await at.note(job_of(f"http://both.example.com:{receiver.port}/"))
            told = await at.ends()
            assert (told.state, told.attempts) == ("delivered", 1)


@asynchronous
async def test_a_name_that_nobody_has_is_a_failure(tmp_path: Path) -> None:
    class Missing(Lookup):
        async def __call__(self, host: str, port: int) -> list[Address]:
            raise OSError("no such name")

    async with desk(tmp_path, resolve=Missing([])) as at:
        await at.note(job_of("https://missing.example.com/"))
        assert (await at.ends()).error == "the host is not found"


# When again.


def test_the_schedule_is_as_documented() -> None:
    schedule, expected = Schedule(), [5, 25, 125, 625, 3125, 14400, 14400]
    for attempt, seconds in enumerate(expected, 1):
        waits = [schedule.wait(attempt) for _ in range(50)]
        assert all(wait is not None and 0.75 * seconds <= wait <= seconds for wait in waits)
        assert len(set(waits)) > 40  # not all at once
    assert schedule.wait(8) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("120", 120),
        (" 0 ", 0),
        ("9" * 400, 999_999_999),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Thu, 99 Jan 1970 00:00:00 GMT", None),
        ("\u0663", None),
    ],
)
def test_what_a_receiver_asks_for(header: str | None, seconds: float | None) -> None:
    assert retry_after(header) == seconds


def test_a_receiver_may_ask_for_a_longer_wait_but_not_for_any() -> None:
    schedule = Schedule()
    assert schedule.wait(1, 100) == 100
    assert schedule.wait(1, 0.0) == pytest.approx(4.375, abs=0.625)
    assert schedule.wait(1, 1e9) == 4 * 3600
    assert schedule.wait(8, 100) is None


@asynchronous
async def test_retry_after_is_heard(tmp_path: Path) -> None:
    async with receiving(status(429, "retry-after: 1000")) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        while (await at.state()).status is None:
            await asyncio.sleep(0.005)
        due = (await at.state()).due
        assert due is not None
        assert 900 < (due - datetime.now(UTC)).total_seconds() <= 1000


# What a request may say.


def test_a_server_without_a_secret_takes_no_webhook() -> None:
    asking = Asking(Allowance(), signed=False)
    with pytest.raises(InvalidRequest, match="DARKROOM_WEBHOOK_SECRETS"):
        asking.webhook({"webhook": "https://example.com/"}, NATIVE)
    assert asking.webhook({}, NATIVE) is None
    assert asking.webhook({"webhook": None, "webhook_events": []}, NATIVE) is None


def test_events_are_named_in_the_words_of_the_api() -> None:
    asking, url = Asking(Allowance(), signed=True), "https://example.com/"

    def events(words: Any, value: object) -> tuple[str, ...]:
        taken = asking.webhook({"webhook": url, words.field: value}, words)
        assert taken is not None
        return taken.events

    assert events(NATIVE, None) == ("succeeded", "failed", "canceled")
    assert events(NATIVE, ["failed", "started", "failed"]) == ("failed", "started")
    assert events(NATIVE, "failed,started") == ("failed", "started")
    assert events(REPLICATE, None) == ("start", "output", "logs", "completed")
    assert events(REPLICATE, ["completed"]) == ("completed",)
    for words, value in (
        (NATIVE, ["completed"]),
        (REPLICATE, ["succeeded"]),
        (NATIVE, "all"),
        (NATIVE, [7]),
        (NATIVE, [["failed"]]),
        (NATIVE, {"failed": 1}),
        (NATIVE, 7),
    ):
        with pytest.raises(InvalidRequest, match=f"{words.field}: must be a list of some of"):
            events(words, value)
    with pytest.raises(InvalidRequest, match="webhook_events: needs a webhook"):
        asking.webhook({"webhook_events": ["failed"]}, NATIVE)


def test_the_settings_refuse_what_is_no_secret_and_do_not_repeat_it() -> None:
    assert len(Settings(webhook_secrets=",".join(SECRETS)).webhook_secrets) == 2
    for text in ("whsec_c2hvcnQ=", "whsec_!!!", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_ä"):
        with pytest.raises(ValidationError, match="24 to 64 random bytes") as raised:
            Settings(webhook_secrets=text)
        assert text not in "".join(entry["msg"] for entry in raised.value.errors())


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "0x7f.1", "a b", "http://x", "*", "1.2.3", "::g"])
def test_the_settings_refuse_what_is_no_host(entry: str) -> None:
    with pytest.raises(ValidationError, match="or a network such as"):
        Settings(webhook_allow=entry)
    with pytest.raises(ValueError, match=r"is none of these|not"):
        Allowance.of([entry])


def test_hosts_are_names_or_addresses() -> None:
    assert host_of("EXAMPLE.com.") == "example.com"
    assert host_of("[::1]") == ipaddress.ip_address("::1")
    for text in ("", ".", "a..b", "1.2.3.04", "0x1", "a.0x1", "a.1"):
        with pytest.raises(ValueError, match=r".+"):
            host_of(text)
