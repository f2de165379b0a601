"""Requests with an Idempotency-Key, which are done once however often they are sent."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Response
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient
from starlette.types import Message

from app.access.keys import digest_of
from app.engine.client import EngineClient
from app.jobs.database import Database
from app.jobs.keys import Answer, Keyed, Keys
from app.jobs.store import JobStore, Room
from app.routes.jobs.once import once
from tests.e2e.live import wait_until
from tests.engine import asynchronous, served
from tests.engine import until as eventually
from tests.fakes import FakeRunner
from tests.jobs.helpers import ASYNC

BODY = {"class": "a", "steps": 3}
STREAM = {"accept": "text/event-stream"}


@pytest.fixture
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture
def server(runner: FakeRunner) -> Iterator[tuple[TestClient, EngineClient]]:
    with served(runner) as both:
        yield both


@pytest.fixture
def http(server: tuple[TestClient, EngineClient]) -> TestClient:
    return server[0]


def post(http: TestClient, key: str = "k", **headers: str) -> httpx.Response:
    return http.post("/generate", json=BODY, headers={"idempotency-key": f'"{key}"'} | headers)


@pytest.mark.parametrize("how", [{}, ASYNC, STREAM, {"accept": "application/json"}])
def test_a_key_repeats_the_answer(
    http: TestClient, runner: FakeRunner, how: dict[str, str]
) -> None:
    """The same status, headers and bytes, though the server chose the seed; nothing is drawn."""
    first = post(http, **how)
    wait_until(lambda: len(runner.started) == 1)
    turned = {"idempotency-key": '"k"', **how}
    again = http.post("/generate", json=dict(reversed(BODY.items())), headers=turned)
    assert again.status_code == first.status_code < 300
    assert again.content == first.content
    for name, value in first.headers.items():
        assert name in ("x-request-id", "transfer-encoding") or again.headers[name] == value
    other = http.post("/generate", json=BODY | {"class": "b"}, headers=turned)
    assert other.status_code == 422
    assert other.json()["title"] == "Idempotency key reused"
    assert len(runner.started) == 1
    assert len(http.get("/jobs").json()["jobs"]) == (how == ASYNC)
    assert post(http, "another", **how).status_code == first.status_code


@pytest.mark.parametrize("how", [{}, ASYNC])
def test_an_answer_is_repeated_where_the_rate_is_used_up(how: dict[str, str]) -> None:
    """To repeat it costs nothing. Whoever lost the answer to its last request can ask again."""
    with served(FakeRunner(), rate="4/hour") as (http, _):
        first = post(http, **how)
        assert first.status_code < 300
        assert post(http, "another", **how).status_code == 429
        again = post(http, **how)
        assert (again.status_code, again.content) == (first.status_code, first.content)
        other = http.post("/generate", json={}, headers={"idempotency-key": '"k"', **how})
        assert other.json()["title"] == "Idempotency key reused"


def test_another_form_of_the_answer_is_another_request(http: TestClient) -> None:
    assert post(http).status_code == 200
    for how in (ASYNC, STREAM, {"accept": "image/webp"}):
        assert post(http, **how).status_code == 422


@pytest.mark.parametrize("wrong", ["k", '""', '"a', '"' + "x" * 256 + '"', '"a", "b"'])
def test_a_key_that_is_no_string_is_refused(http: TestClient, wrong: str) -> None:
    for how in ({}, ASYNC):
        answer = http.post("/generate", json=BODY, headers={"idempotency-key": wrong} | how)
        assert answer.status_code == 400


@pytest.mark.parametrize("how", [{}, STREAM])
def test_while_a_request_is_answered_its_key_is_in_use(
    how: dict[str, str], runner: FakeRunner
) -> None:
    """Its lease is renewed all the while, also where there was never a job."""
    runner.gate.hold()
    with served(runner, jobs_lease_seconds=1) as (http, _), ThreadPoolExecutor(2) as pool:
        first = pool.submit(post, http, **how)
        wait_until(lambda: runner.started)
        ends = [post(http, **how) for _ in range(2)]
        wait_until(lambda: _in_use_for(http, how, 1.5))
        runner.gate.open()
        assert first.result().status_code == 200
        for refused in ends:
            assert refused.status_code == 409
            assert refused.json()["title"] == "Idempotency key in use"
            assert refused.headers["retry-after"] == "1"
        assert post(http, **how).content == first.result().content
    assert len(runner.started) == 1


def _in_use_for(http: TestClient, how: dict[str, str], seconds: float) -> bool:
    """Whether a key stays in use for longer than a lease that nobody renews."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert post(http, **how).status_code == 409
        time.sleep(0.1)
    return True


def test_a_refusal_or_failure_is_not_kept() -> None:
    """What comes after it is another try."""
    with served(FakeRunner(poison=[7])) as (http, _):
        body, key = BODY | {"seed": 7}, {"idempotency-key": '"k"'}
        assert http.post("/generate", json=body, headers=key).status_code == 500
        assert post(http).status_code == 200
        key = {"idempotency-key": '"s"'} | STREAM
        failed = http.post("/generate", json=body, headers=key)
        assert "event: error" in failed.text
        assert post(http, "s", **STREAM).status_code == 200
        refused = http.post("/generate", json=BODY | {"steps": 0}, headers=key)
        assert refused.status_code == 422


def secret(name: str) -> str:
    return "dk_" + name.ljust(40, "x")


def test_a_key_belongs_to_its_client() -> None:
    keys = ", ".join(f"{name}: sha256:{digest_of(secret(name)).hex()}" for name in ("alice", "bob"))
    with served(FakeRunner(), api_keys=keys) as (http, _):
        seeds = {
            post(http, **{"x-api-key": secret(name)}).headers["x-seed"] for name in ("alice", "bob")
        }
        assert len(seeds) == 2
        assert post(http, **{"x-api-key": secret("bob")}).headers["x-seed"] in seeds


def test_a_key_may_be_used_anew_when_its_answer_is_not_kept_any_more() -> None:
    with served(FakeRunner(), idempotency_seconds=1) as (http, _):
        for how in ({}, ASYNC):
            first = post(http, "e", **how)
            assert post(http, "e", **how).content == first.content
            wait_until(lambda how=how, first=first: post(http, "e", **how).content != first.content)


@pytest.mark.parametrize("until", ["taken", "answer", "head", "middle"])
@asynchronous
async def test_a_key_whose_client_left_is_free(
    until: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the key is taken, its picture drawn, before the first event, or amid a stream."""
    room = Room(1, 1, 1, 1)
    database = Database(f"sqlite:///{tmp_path / 'jobs.db'}")
    keys = Keys(JobStore(database, room), "server", 60, 9)
    keyed = Keyed("me", "key", "f" * 64)
    sent: list[Message] = []

    taking, left, take = threading.Event(), threading.Event(), keys._take

    def taken(*given: Any) -> Answer | None:
        taking.set()
        assert left.wait(10)
        return take(*given)

    monkeypatch.setattr(keys, "_take", taken)
    if until != "taken":
        left.set()

    async def parts() -> AsyncIterator[bytes]:
        yield b"event: queued\n\n"
        await asyncio.sleep(60)

    async def answer() -> Response:
        if until == "answer":
            await asyncio.sleep(60)
        return StreamingResponse(parts())

    async def send(message: Message) -> None:
        if until == "head":
            raise OSError
        sent.append(message)

    async def serve() -> None:
        response = await once(keys, keyed, answer)
        scope = {"type": "http", "asgi": {"spec_version": "2.4"}}
        await response(scope, lambda: asyncio.sleep(60), send)

    serving = asyncio.create_task(serve())
    if until == "middle":
        await eventually(lambda: len(sent) == 2)
    elif until == "answer":
        await asyncio.sleep(0.2)
    elif until == "taken":
        await eventually(taking.is_set)
    if until != "head":
        serving.cancel()
    asyncio.get_running_loop().call_later(0.05, left.set)
    await asyncio.gather(serving, return_exceptions=True)
    assert await keys.begin(keyed) is None
    await database.close()


def test_a_replayed_stream_is_whole(http: TestClient) -> None:
    post(http, **STREAM)
    events = [line[7:] for line in post(http, **STREAM).text.splitlines() if line[:7] == "event: "]
    assert events[0] == "queued"
    assert events[-1] == "completed"
    assert "completed" not in events[:-1]
    data = [line[6:] for line in post(http, **STREAM).text.splitlines() if line[:6] == "data: "]
    assert json.loads(data[-1])["images"]
