"""Receivers of webhooks over TLS, and those that keep a caller waiting."""

import asyncio
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.http.addresses import Allowance
from app.jobs.webhooks import calling
from app.jobs.webhooks.calling import Caller, Resolver
from app.jobs.webhooks.outbox import Bounds
from app.jobs.webhooks.schedule import Schedule
from app.jobs.webhooks.signing import Signer
from app.jobs.webhooks.targets import Target
from tests.e2e.live import wait_until
from tests.engine import asynchronous, served, until
from tests.fakes import FakeRunner
from tests.jobs.certificates import Authority
from tests.jobs.desk import QUICK, SECRETS, Lookup, desk, job_of
from tests.jobs.receivers import dripping, putting_off, receiving, silent, status

NAME = "hooks.example.com"


# Over TLS: the address that was checked is called, and the name is what is asked for.


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Authority]:
    """The one that this process believes."""
    trusted = Authority(tmp_path / "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted.file))
    calling._certificates.cache_clear()
    yield trusted
    calling._certificates.cache_clear()


def asked_for(tls: ssl.SSLContext) -> list[str | None]:
    """The names that callers ask a server for (SNI), as they come."""
    names: list[str | None] = []
    tls.sni_callback = lambda _, name, __: names.append(name)
    return names


@asynchronous
async def test_a_pinned_address_is_asked_for_the_certificate_of_the_name(
    tmp_path: Path, authority: Authority
) -> None:
    tls = authority.server(NAME)
    names, lookup = asked_for(tls), Lookup([["127.0.0.1"], ["10.0.0.1"]])
    async with receiving(tls=tls) as receiver, desk(tmp_path, resolve=lookup) as at:
        await at.note(job_of(f"https://{NAME}:{receiver.port}/hook"))
        told = await at.ends()
        assert (told.state, told.attempts, told.error) == ("delivered", 1, None)
        assert names == [NAME]
        assert receiver.received[0].headers["host"] == f"{NAME}:{receiver.port}"
        assert lookup.asked == [NAME]


@asynchronous
async def test_an_address_needs_a_certificate_of_its_own(
    tmp_path: Path, authority: Authority
) -> None:
    tls = authority.server("127.0.0.1")
    async with receiving(tls=tls) as receiver, desk(tmp_path) as at:
        await at.note(job_of(f"https://127.0.0.1:{receiver.port}/"))
        assert (await at.ends()).state == "delivered"


@pytest.mark.parametrize("wrong", ["other name", "address", "expired", "other authority"])
@asynchronous
async def test_a_wrong_certificate_is_told_nothing(
    tmp_path: Path, authority: Authority, wrong: str
) -> None:
    hosts = {"other name": "example.com", "address": "127.0.0.1"}
    signing = Authority(tmp_path / "other") if wrong == "other authority" else authority
    tls = signing.server(hosts.get(wrong, NAME), days=-1 if wrong == "expired" else 30)
    lookup = Lookup([["127.0.0.1"]])
    async with receiving(tls=tls) as receiver, desk(tmp_path, resolve=lookup) as at:
        await at.note(job_of(f"https://{NAME}:{receiver.port}/"))
        told = await at.ends()
        assert (told.state, told.attempts) == ("failed", 4)
        assert (told.status, told.error) == (None, "its certificate is wrong")
        assert receiver.received == []


@asynchronous
async def test_no_tls_where_it_is_asked_for_is_no_connection(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(status(400))
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server, desk(tmp_path) as at:
        await at.note(job_of(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"))
        assert (await at.ends()).error == "no connection"
        assert not any(b"POST" in each for each in heard)


# Which addresses of a name.


@pytest.mark.parametrize(
    ("found", "called"),
    [
        (["10.0.0.1", "8.8.8.8", "::1"], ["8.8.8.8"]),
        (["8.8.8.8", "8.8.8.8"], ["8.8.8.8"]),
        (["::ffff:8.8.8.8", "64:ff9b::808:808", "fe80::1", "169.254.169.254"], []),
        (["2606:4700::1", "fd00::1", "1.1.1.1"], ["2606:4700::1", "1.1.1.1"]),
        ([f"9.9.9.{k}" for k in range(9)], ["9.9.9.0", "9.9.9.1", "9.9.9.2"]),
    ],
)
@asynchronous
async def test_of_a_name_s_addresses_only_the_public_ones_are_called(
    found: list[str], called: list[str]
) -> None:
    caller, target = Caller(Allowance(), Signer(()), 1), Target.parse("https://a.example.com:8443/")
    addresses = await caller._addresses(target, Lookup([found]))
    assert addresses == [ipaddress.ip_address(each) for each in called]


@pytest.mark.parametrize("url", ["http://localhost.:9/", "http://a.localhost/", "http://[::1]/"])
@asynchronous
async def test_this_machine_is_not_called_by_whatever_name(url: str, tmp_path: Path) -> None:
    """Refused when the job is accepted; and once more when it is called."""
    public = replace(QUICK, allowance=Allowance(), schedule=Schedule(1))
    async with desk(tmp_path, public, Lookup([["127.0.0.1", "::1"]])) as at:
        await at.note(job_of(url))
        assert (await at.ends()).error == "the host has no address that may be called"


# Answers that never end.


@pytest.mark.parametrize("answer", [dripping, putting_off])
@asynchronous
async def test_an_answer_that_never_begins_is_given_up_in_time(tmp_path: Path, answer: Any) -> None:
    options = replace(QUICK, seconds=0.3, schedule=Schedule(2, 0.001))
    async with receiving(answer) as receiver, desk(tmp_path, options) as at:
        await at.note(job_of(receiver.url))
        told = await at.ends()
        assert (told.state, told.attempts) == ("failed", 2)
        assert told.error == "no answer within 0.3 seconds"
        await until(lambda: receiver.open == 0)


@asynchronous
async def test_a_body_that_never_ends_is_not_waited_for(tmp_path: Path) -> None:
    async def endless(reader: Any, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await silent(reader, writer)

    async with receiving(endless) as receiver, desk(tmp_path) as at:
        await at.note(job_of(receiver.url))
        assert (await at.ends()).state == "delivered"
        await until(lambda: receiver.open == 0)


def test_a_job_ends_in_time_whatever_its_receiver_does() -> None:
    settings = {"webhook_secrets": SECRETS[0], "webhook_allow": "127.0.0.1"}
    with socket.socket() as dead, served(FakeRunner(), **settings) as (http, _):
        dead.bind(("127.0.0.1", 0))
        dead.listen(1)  # it takes connections and reads nothing
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            ports = dead.getsockname()[1], closed.getsockname()[1]
        paths = []
        for k in range(12):
            body = {"class": "a", "steps": 3, "webhook": f"http://127.0.0.1:{ports[k % 2]}/"}
            answer = http.post("/generate", json=body, headers={"prefer": "respond-async"})
            paths.append(answer.headers["location"])
        for path in paths:
            wait_until(lambda path=path: http.get(path).json()["status"] == "succeeded")
        waiting = [call for path in paths for call in http.get(path).json()["webhook"]["calls"]]
        assert [call["event"] for call in waiting] == ["succeeded"] * 12
        assert {call["state"] for call in waiting} == {"waiting"}


# Names whose servers say nothing.


@asynchronous
async def test_one_client_s_dead_names_delay_no_other_client(tmp_path: Path) -> None:
    """Their lookups outlive the calls, and are never more than the client's share of calls."""
    found, asked = threading.Event(), 0

    def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        nonlocal asked
        if host.startswith("dead"):
            asked += 1
            found.wait(30)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    options = replace(
        QUICK, bounds=Bounds(calls=6, host=3, owner=4), seconds=0.05, schedule=Schedule(9, 0.001)
    )
    async with receiving() as alive, desk(tmp_path, options, Resolver(look_up)) as at:
        for k in range(20):
            await at.note(job_of(f"http://dead{k % 5}.example.com/", f"dead{k}"))
        await until(lambda: at.webhooks.counts["retried"] >= 4)  # given up, and still looked up
        url = alive.url.replace("127.0.0.1", "alive.example.com")
        await at.note(*(job_of(url, f"mine{k}", "you") for k in range(20)))
        for k in range(20):
            assert (await at.ends(f"mine{k}")).state == "delivered"
        assert asked == 4
        found.set()
        await until(lambda: asked >= 20)


@asynchronous
async def test_a_server_stops_while_names_are_looked_up(tmp_path: Path) -> None:
    looking, found = threading.Event(), threading.Event()

    def look_up(*_: Any, **__: Any) -> list[tuple[Any, ...]]:
        looking.set()
        found.wait(30)
        raise OSError("no such name")

    async with desk(tmp_path, resolve=Resolver(look_up)) as at:
        await at.note(job_of("https://dead.example.com/"))
        await until(looking.is_set)
    thread = next(each for each in threading.enumerate() if each.name == "resolver")
    assert thread.daemon  # the process need not wait for it
    found.set()
    thread.join(30)
