"""A server that is told to stop while jobs wait: it ends in time, and the next one goes on."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql
from httpx_sse import ServerSentEvent, connect_sse

from tests.e2e.live import draw, engine, serving, web

pytestmark = pytest.mark.server

COUNT, DRAIN = 30, 1
ENDS = ("succeeded", "failed", "canceled")
STREAM = "/jobs/events"


def body(k: int) -> dict[str, object]:
    return {"class": "cat", "steps": 20 + k % 5, "seed": k, "eta": 0.5}


@contextmanager
def following(url: str, last: str | None = None) -> Iterator[Iterator[ServerSentEvent]]:
    """The stream of this client's jobs, over a connection of its own."""
    headers = {"last-event-id": last} if last else {}
    with (
        httpx.Client(base_url=url, timeout=30) as client,
        connect_sse(client, "GET", STREAM, headers=headers) as source,
    ):
        yield source.iter_sse()


def ends(events: Iterator[ServerSentEvent], count: int) -> list[tuple[str, str, str]]:
    """Of the next so many ends: the job, how it ended, and the event's id."""
    told: list[tuple[str, str, str]] = []
    for event in events:
        if event.event in ENDS:
            told.append((event.json()["id"], event.event, event.id))
        if len(told) == count:
            return told
    raise AssertionError(f"the stream ended after {told}")


def states(events: Iterator[ServerSentEvent], count: int) -> list[str]:
    """The jobs of the next events that are neither a preview nor an end."""
    found = (event for event in events if event.event in ("queued", "progress"))
    return [next(found).json()["id"] for _ in range(count)]


def test_a_stop_under_load_loses_no_job_and_no_end(tiny_folder: Path, tmp_path: Path) -> None:
    """The newest first, one stream at a time, and every end once, over a restart."""
    settings: dict[str, Any] = {
        "models": tiny_folder,
        "backend": "eager",
        "slots": 4,
        "state_folder": tmp_path,
        "drain_seconds": DRAIN,
        "max_streams": 1,
    }
    with (
        serving(**settings) as (url, process),
        ExitStack() as stack,
        ThreadPoolExecutor(4) as pool,
    ):
        worker = engine(url)["worker_pid"]
        os.kill(worker, signal.SIGSTOP)  # no job ends before somebody follows
        with httpx.Client(base_url=url) as client:
            asked = {"prefer": "respond-async"}
            answers = [client.post("/generate", json=body(k), headers=asked) for k in range(COUNT)]
        ids = [answer.json()["id"] for answer in answers]
        with following(url) as events:
            snapshot = next(events)
            assert snapshot.event == "snapshot"
            assert snapshot.json()["resumed"] is False
            listed = [job["id"] for job in snapshot.json()["jobs"]]
            assert listed == ids[::-1]
            assert states(events, 20) == listed[:20]
            os.kill(worker, signal.SIGCONT)
            told = ends(events, 3)
            refused = web.get(f"{url}{STREAM}")
            assert refused.status_code == 429
            assert refused.headers["retry-after"] == "5"
            assert refused.json()["title"] == "Limit exceeded"
            assert "DARKROOM_MAX_STREAMS" in refused.json()["detail"]
        with following(url, told[-1][2]) as events:  # the first one is not counted any more
            assert next(events).json()["resumed"] is True
            told += ends(events, 2)
        long = {"class": "dog", "steps": 1000, "n": 4, "timeout": 3600}
        crowd = stack.enter_context(httpx.Client(base_url=url, timeout=60))
        load = [pool.submit(crowd.post, "/generate", json=long) for _ in range(4)]
        time.sleep(0.3)  # until the server has them
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(DRAIN + 10) == 0
        assert time.monotonic() - began < DRAIN + 5
        assert {answer.result().status_code for answer in load} <= {200, 503}
    stored = sql.create_engine(f"sqlite:///{tmp_path / 'jobs.db'}")
    with stored.connect() as connection:
        rows = connection.exec_driver_sql("SELECT status, server, losses FROM jobs").all()
    stored.dispose()
    assert {tuple(row) for row in rows} == {("succeeded", None, 0), ("queued", None, 0)}
    with serving(**settings) as (url, _):
        with following(url, told[-1][2]) as events:
            begun = next(events).json()
            assert begun["resumed"] is True
            assert begun["jobs"], "all had ended before"
            told += ends(events, COUNT - len(told))
        assert Counter(job for job, *_ in told) == Counter(ids)
        assert {status for _, status, _ in told} == {"succeeded"}
        for k in (0, COUNT // 2, COUNT - 1):
            file = web.get(f"{url}/jobs/{ids[k]}/images/0")
            assert file.content == draw(url, body(k))
