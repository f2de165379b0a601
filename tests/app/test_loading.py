"""While models load, requests wait for them: every dialect's, until they are there or too late."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine.client import EngineClient
from app.engine.model_runner import ModelRunner
from app.engine.wire import Load
from app.jobs.work import unpack
from app.main import create_app
from app.settings import Settings
from tests.engine import LIMITS
from tests.fakes import LOAD, FakeRunner, ThreadWorker

ASKED: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/generate", {"json": {"class": "a", "seed": 1}}),
    ("POST", "/generate", {"data": {"class": "a", "seed": "1"}}),
    ("POST", "/generate", {"json": {"inputs": "a", "parameters": {"seed": 1}}}),
    ("POST", "/generate", {"json": {"seed": 1}, "headers": {"accept": "text/event-stream"}}),
    ("GET", "/generate?class=a&seed=1", {}),
    ("HEAD", "/generate?class=a&seed=1", {}),
    ("POST", "/models/fake", {"json": {"inputs": "a"}}),
    ("POST", "/v1/images/generations", {"json": {"prompt": "a"}}),
    ("GET", "/v1/models", {}),
    ("POST", "/sdapi/v1/txt2img", {"json": {"prompt": "a"}}),
    ("GET", "/sdapi/v1/sd-models", {}),
    ("POST", "/v1/models/any/fake/predictions", {"json": {"input": {"prompt": "a"}}}),
    ("POST", "/v1/predictions", {"json": {"version": "x/fake", "input": {"prompt": "a"}}}),
    ("GET", "/v2/models/fake", {}),
]


@dataclass
class Loading:
    """A server whose model loads when it is told to, and requests that were sent meanwhile."""

    client: TestClient
    engine: EngineClient
    gate: threading.Event
    pool: ThreadPoolExecutor
    error: str = ""

    def send(self, method: str, path: str, **options: Any) -> "Future[httpx.Response]":
        return self.pool.submit(self.client.request, method, path, **options)


@pytest.fixture
def loading() -> Iterator[Loading]:
    gate = threading.Event()

    def load(_: Load) -> list[ModelRunner]:
        assert gate.wait(20)
        if made.error:
            raise ValueError(made.error)
        return [FakeRunner()]

    engine = EngineClient(LOAD, LIMITS, lambda wanted: ThreadWorker(wanted, load))
    app = create_app(Settings(), engine)
    try:
        with TestClient(app, base_url="http://localhost") as client, ThreadPoolExecutor(20) as pool:
            made = Loading(client, engine, gate, pool)
            yield made
            gate.set()
    finally:
        gate.set()


def test_every_dialect_waits_and_is_answered_as_ever(loading: Loading) -> None:
    waiting = [loading.send(method, path, **options) for method, path, options in ASKED]
    while loading.client.get("/readyz").status_code != 503 or loading.engine.jobs:
        pass
    time.sleep(0.3)
    assert not any(each.done() for each in waiting)
    loading.gate.set()
    for (method, path, options), each in zip(ASKED, waiting, strict=True):
        answer = each.result()
        assert answer.status_code in (200, 201), (path, answer.text)
        again = loading.client.request(method, path, **options)
        assert again.headers["content-type"] == answer.headers["content-type"]
    assert waiting[0].result().content == waiting[1].result().content


def test_past_its_deadline_a_request_is_told_when_to_come_back(loading: Loading) -> None:
    for asked in (
        {"json": {"class": "a", "timeout": 0.2}},
        {"json": {"class": "a", "timeout": 0.2}, "headers": {"accept": "text/event-stream"}},
    ):
        answer = loading.send("POST", "/generate", **asked).result()
        assert answer.status_code == 503
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "5"
        assert answer.json()["detail"] == "the models are not loaded yet, after 0.2 seconds"


def test_the_time_to_load_is_a_part_of_the_deadline(loading: Loading) -> None:
    """What is left of it is less than 700 ticks of 2.5 ms take, as the model's table says."""
    late = loading.send("POST", "/generate", json={"class": "a", "steps": 700, "timeout": 1.2})
    time.sleep(0.8)
    loading.gate.set()
    assert late.result().status_code in (422, 429, 504)


def test_a_job_that_waited_for_its_model_has_no_deadline(loading: Loading) -> None:
    sent: list[tuple[str, dict[str, Any]]] = [
        ("/generate", {"class": "a"}),
        ("/v1/models/any/fake/predictions", {"input": {"prompt": "a"}}),
    ]
    headers = {"prefer": "respond-async"}
    waiting = [loading.send("POST", path, json=body, headers=headers) for path, body in sent]
    time.sleep(0.1)
    loading.gate.set()
    store, portal = loading.client.app.state.jobs.store, loading.client.portal  # type: ignore[attr-defined]
    for each in waiting:
        job, _ = portal.call(store.get, "testclient", each.result().json()["id"])  # type: ignore[union-attr]
        assert unpack(job.work).request.timeout is None


def test_what_is_wrong_is_told_at_once(loading: Loading) -> None:
    assert loading.client.post("/generate", json={"steps": 0}).status_code == 422
    assert loading.client.get("/generate", params={"steps": 0}).status_code == 422
    assert loading.client.get("/livez").status_code == 200
    listed = loading.client.get("/models").json()["models"]
    assert [(model["name"], model["state"]) for model in listed] == [("fake", "loading")]


def test_a_model_that_does_not_load_is_told_to_who_waits(loading: Loading) -> None:
    waiting = [loading.send(method, path, **options) for method, path, options in ASKED]
    time.sleep(0.2)
    loading.error = "fake/unet/config.json: act_fn is 'tanh'"
    loading.gate.set()
    for each in waiting:
        answer = each.result()
        assert answer.status_code == 503
        assert "act_fn is 'tanh'" in answer.text or answer.request.method == "HEAD"


def test_a_server_that_stops_lets_nobody_wait(loading: Loading) -> None:
    waiting = loading.send("POST", "/generate", json={"class": "a"})
    time.sleep(0.2)
    assert loading.client.portal is not None
    loading.client.portal.call(loading.engine.drain, 0.1)
    assert waiting.result().status_code == 503
    assert waiting.result().json()["detail"] == "the server is stopping"
