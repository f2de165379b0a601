"""What calls about predictions hold: files while they are sent, and not while they wait."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.jobs.webhooks import service
from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner
from tests.jobs.desk import SECRETS
from tests.jobs.test_predictions import calls, create, ended

STORE = "jobs.db"


@pytest.fixture(autouse=True)
def awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are looked for all the time, so that a test need not wait for a second."""
    monkeypatch.setattr(service, "_POLL_SECONDS", 0.01)


@contextmanager
def failing_once(meanwhile: Callable[[], None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver that refuses the first call of each message, and what it was sent."""
    received: list[dict[str, Any]] = []
    known: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append(json.loads(body))
            first = self.headers["webhook-id"] not in known
            known.add(self.headers["webhook-id"])
            if first:
                meanwhile()
            self.send_response(500 if first else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", received
        server.shutdown()
        thread.join()


def told(
    folder: Path, events: list[str], change: str = "SELECT 1"
) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """What two calls said, the prediction as it is after them, and what waited between the two.

    There the store is changed by a script.
    """
    waiting: list[str] = []

    def look() -> None:
        with closing(sqlite3.connect(folder / STORE)) as store:
            waiting.extend(row[0] for row in store.execute("SELECT body FROM webhook_deliveries"))
            store.executescript(change)

    settings = {
        "database": f"sqlite:///{folder / STORE}",
        "webhook_secrets": SECRETS[0],
        "webhook_allow": "127.0.0.1",
        "webhook_retry_seconds": 0.01,
    }
    with failing_once(look) as (url, received), served(FakeRunner(), **settings) as (http, _):
        answer = create(http, webhook=url, webhook_events_filter=events)
        wait_until(lambda: calls(http, answer.json()["id"]) == ["delivered"])
        return received, ended(http, answer), waiting


def test_files_are_in_the_call_and_not_in_what_waits(tmp_path: Path) -> None:
    """They are in the store once, in the result."""
    (first, again), now, waiting = told(tmp_path, ["completed"])
    assert first == again == now
    assert first["output"][0].startswith("data:image/png;base64,")
    (noted,) = waiting
    assert json.loads(noted) | {"output": now["output"]} == now
    (address,) = json.loads(noted)["output"]
    assert address == f"http://localhost/jobs/{now['id']}/images/0"


def test_a_call_after_the_files_have_gone_says_so(tmp_path: Path) -> None:
    gone = "DELETE FROM results; UPDATE jobs SET expired = 1"
    (first, again), now, _ = told(tmp_path, ["output"], gone)
    assert first["output"]
    assert again == now
    assert (now["output"], now["data_removed"]) == (None, True)


def test_a_start_that_is_told_late_is_still_a_start(tmp_path: Path) -> None:
    (first, again), now, _ = told(tmp_path, ["start"])
    assert (first["status"], now["status"]) == ("processing", "succeeded")
    assert again == first
