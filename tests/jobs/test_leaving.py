"""Clients that leave while the store is at work for them: what it does is done, and all of it."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.jobs.store import JobStore
from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.helpers import ASYNC

HEADERS = {"host": "localhost", "content-type": "application/json", **ASYNC}


@pytest.fixture
def http() -> Iterator[TestClient]:
    with served(FakeRunner(), rate="100/hour") as (client, _):
        yield client


class Held:
    """A function of the store that is called, and goes on when its client has left."""

    def __init__(self, held: Callable[..., Any]) -> None:
        self._held = held
        self.entered, self.left = threading.Event(), threading.Event()

    def __call__(self, *given: Any) -> Any:
        self.entered.set()
        assert self.left.wait(10)
        return self._held(*given)

    def asked(
        self, http: TestClient, method: str, path: str, headers: dict[str, str], body: bytes = b""
    ) -> None:
        """Ask, and leave while the function is called."""
        told = [(name.encode(), value.encode()) for name, value in headers.items()]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "scheme": "http",
            "query_string": b"",
            "headers": told,
            "client": ("testclient", 1),
            "server": ("localhost", 80),
        }
        messages = iter([{"type": "http.request", "body": body}])

        async def receive() -> dict[str, Any]:
            for message in messages:
                return message
            await asyncio.to_thread(self.entered.wait, 10)
            return {"type": "http.disconnect"}

        async def send(_: object) -> None:
            pass

        assert http.portal is not None
        http.portal.call(http.app, scope, receive, send)
        self.left.set()


def left(http: TestClient) -> str:
    return http.get("/models").headers["ratelimit"].partition(";t=")[0]


@pytest.mark.parametrize("key", [{}, {"idempotency-key": '"k"'}])
@pytest.mark.parametrize("path", ["/generate", "/v1/models/x/fake/predictions"])
def test_a_job_that_was_accepted_is_counted_and_begun(
    path: str, key: dict[str, str], http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held(http.app.state.jobs.store.add)  # type: ignore[attr-defined]
    monkeypatch.setattr(JobStore, "add", lambda _, *given: held(*given))
    body = {"class": "a", "steps": 3}
    if path != "/generate":
        body = {"input": {"prompt": "a", "num_inference_steps": 3}}  # type: ignore[dict-item]
    held.asked(http, "POST", path, HEADERS | key, json.dumps(body).encode())
    wait_until(lambda: len(http.get("/jobs").json()["jobs"]) == 1)
    assert left(http) == '"default";r=97'
