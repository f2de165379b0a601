"""The stream and the webhooks of a whole server, over HTTP."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient
from standardwebhooks.webhooks import Webhook

from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.desk import SECRETS

ASYNC = {"prefer": "respond-async"}


@contextmanager
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    received: list[tuple[dict[str, str], bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()
        thread.join()


def test_a_job_s_webhook_is_told_what_asking_for_the_job_tells() -> None:
    settings = {"webhook_secrets": ",".join(SECRETS), "webhook_allow": "127.0.0.1"}
    with receiver() as (url, received), served(FakeRunner(), **settings) as (http, _):
        asked = {"class": "a", "steps": 3, "webhook": url, "webhook_events": ["succeeded"]}
        answer = http.post("/generate", json=asked, headers=ASYNC)
        assert answer.status_code == 202, answer.text
        path = answer.headers["location"]
        wait_until(lambda: [c["state"] for c in calls(http, path)] == ["delivered"])
        ((headers, body),) = received
        told = Webhook(SECRETS[1]).verify(body, headers)
        shown = http.get(path).json()
        (call,) = shown["webhook"].pop("calls")
        assert (call["event"], call["attempts"], call["status"]) == ("succeeded", 1, 200)
        assert told["webhook"].pop("calls") == []
        assert told == shown


def calls(http: TestClient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = http.get(path).json()["webhook"]["calls"]
    return found


@pytest.mark.parametrize(
    ("asked", "pointer"),
    [
        ({"webhook": "http://169.254.169.254/"}, "#/webhook"),
        ({"webhook": "https://a:b@example.com/"}, "#/webhook"),
        ({"webhook": "https://example.com/", "webhook_events": ["all"]}, "#/webhook_events"),
    ],
)
def test_a_webhook_that_is_not_called_is_refused(asked: dict[str, Any], pointer: str) -> None:
    with served(FakeRunner(), webhook_secrets=SECRETS[0]) as (http, _):
        answer = http.post("/generate", json={"class": "a"} | asked, headers=ASYNC)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert http.get("/jobs").json()["jobs"] == []


def test_wrong_ways_to_ask_for_the_stream() -> None:
    with served(FakeRunner()) as (http, _):
        for query, status in (
            ("?last_event_id=soon", 400),
            ("?other=1", 422),
            ("?last_event_id=1-1&last_event_id=2-2", 422),
            ("?" + "&".join(f"job={k}" for k in range(101)), 422),
        ):
            answer = http.get(f"/jobs/events{query}")
            assert answer.status_code == status, query
            assert answer.headers["content-type"] == "application/problem+json"
        assert http.get("/jobs/events", headers={"last-event-id": "x"}).status_code == 400
        head = http.head("/jobs/events")
        assert head.headers["content-type"].startswith("text/event-stream")
        document = http.get("/openapi.json").json()
        kinds = document["paths"]["/jobs/events"]["get"]["responses"]["200"]["content"]
        assert "snapshot" in json.dumps(kinds["text/event-stream"])
