"""Jobs that were accepted are finished, each once, though servers and workers are killed."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql
from httpx_sse import connect_sse

from tests.e2e.live import alive, engine, serving, wait_until
from tests.postgres import Postgres

pytestmark = pytest.mark.server

ASYNC = {"prefer": "respond-async"}
LITTLE: dict[str, object] = {"backend": "eager", "slots": 4, "jobs_lease_seconds": 1}
KEYED = {"class": "cat", "steps": 6, "seed": 77}


def body(k: int) -> dict[str, Any]:
    """Requests that differ in all that fixes their bytes; some leave the seed to the server."""
    asked: dict[str, Any] = {
        "class": ("cat", "dog", "3")[k % 3],
        "steps": 4 + k % 7,
        "eta": (0, 0.5)[k % 2],
        "n": 1 + k % 2,
        "guidance_scale": (1, 2.5)[k % 2],
    }
    return asked | ({"seed": 1000 + k} if k % 5 else {})


def accept(url: str, numbers: Sequence[int], **more: object) -> list[str]:
    """The ids of jobs that were accepted."""
    ids = []
    with httpx.Client(base_url=url, headers=ASYNC, timeout=30) as client:
        for k in numbers:
            answer = client.post("/generate", json=body(k) | more)
            assert answer.status_code == 202, answer.text
            ids.append(answer.json()["id"])
    return ids


def kill(server: "subprocess.Popen[bytes]", worker: int) -> None:
    """End a server and its worker as the kernel does when there is no memory left."""
    os.kill(server.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    server.wait()
    server.returncode = 0  # what `serving` expects
    wait_until(lambda: not alive(worker))


def jobs_of(url: str) -> dict[str, dict[str, Any]]:
    listed = httpx.get(f"{url}/jobs?limit=100", timeout=30).json()["jobs"]
    return {job["id"]: job for job in reversed(listed)}


def succeeded(url: str) -> dict[str, dict[str, Any]]:
    return {name: job for name, job in jobs_of(url).items() if job["status"] == "succeeded"}


def assert_all_drawn(url: str, ids: Sequence[str], numbers: Sequence[int], **more: object) -> None:
    """Each has the bytes of the same request drawn at once."""
    wait_until(lambda: all(job["ended_at"] for job in jobs_of(url).values()))
    jobs = jobs_of(url)
    assert list(jobs) == list(ids)
    with httpx.Client(base_url=url, timeout=120) as client, ThreadPoolExecutor(8) as pool:

        def same(job: dict[str, Any], k: int) -> None:
            assert (job["status"], job["error"]) == ("succeeded", None)
            images = job["result"]["images"]
            assert len(images) == body(k)["n"]
            for image in images:
                alone = body(k) | more | {"seed": image["seed"], "n": 1}
                file = client.get(image["url"]).content
                assert file == client.post("/generate", json=alone).content, job

        list(pool.map(same, jobs.values(), numbers))


def assert_each_ended_once(database: str, count: int, images: int) -> None:
    """Ends are numbered when they are written, so a second end of a job would leave a gap."""
    made = sql.create_engine(database)
    with made.connect() as connection:
        numbers = connection.exec_driver_sql("SELECT ended_no FROM jobs ORDER BY 1").scalars()
        assert list(numbers) == list(range(1, count + 1))
        assert connection.exec_driver_sql("SELECT value FROM counters").scalar() == count
        assert connection.exec_driver_sql("SELECT count(*) FROM results").scalar() == images
        left = "SELECT count(*) FROM jobs WHERE server IS NOT NULL OR lease IS NOT NULL"
        assert connection.exec_driver_sql(left).scalar() == 0
    made.dispose()


def ends_told(url: str, count: int) -> list[str]:
    """The ids of the jobs whose ends a client is told that was told of none."""
    told: list[str] = []
    last = {"last-event-id": f"0-{time.time():.0f}"}
    address = f"{url}/jobs/events"
    with httpx.Client(timeout=30) as client, connect_sse(client, "GET", address, headers=last) as s:
        for event in s.iter_sse():
            if event.event == "succeeded":
                told.append(event.json()["id"])
            if len(told) == count:
                return told
    raise AssertionError("the stream ended")


def keyed(url: str) -> httpx.Response:
    headers = {"idempotency-key": '"of a request that is cut off"'}
    return httpx.post(f"{url}/generate", json=KEYED, headers=headers, timeout=60)


def test_all_jobs_are_finished_after_kill_9(tiny_folder: Path, tmp_path: Path) -> None:
    """Some are done by then, some are drawn just then, most wait; a request with a key as well."""
    settings = LITTLE | {"models": tiny_folder, "state_folder": tmp_path}
    with ThreadPoolExecutor(1) as pool, serving(**settings) as (url, server):
        worker = engine(url)["worker_pid"]
        ids = accept(url, range(6))
        wait_until(lambda: len(succeeded(url)) >= 3)
        os.kill(worker, signal.SIGSTOP)  # nothing is drawn from here on
        ids += accept(url, range(6, 50))
        before = succeeded(url)
        claimed = sum(job["status"] == "running" for job in jobs_of(url).values())
        assert claimed
        wait_until(lambda: engine(url)["jobs"] == claimed)
        cut: Future[httpx.Response] = pool.submit(keyed, url)
        wait_until(lambda: engine(url)["jobs"] == claimed + 1)
        assert keyed(url).status_code == 409
        kill(server, worker)
        assert isinstance(cut.exception(10), httpx.TransportError)
    assert 3 <= len(before) <= 6
    with serving(**settings) as (url, _):
        assert_all_drawn(url, ids, range(50))
        after = jobs_of(url)
        assert all(after[name] == job for name, job in before.items()), "drawn twice"
        assert sorted(ends_told(url, 50)) == sorted(ids)
        assert_each_ended_once(f"sqlite:///{tmp_path / 'jobs.db'}", 50, images=75)
        again = keyed(url)
        assert again.status_code == 200
        assert again.content == httpx.post(f"{url}/generate", json=KEYED, timeout=60).content


def test_a_server_finishes_the_jobs_of_another_that_was_killed(
    tiny_folder: Path, postgres: Postgres
) -> None:
    """Two servers share the jobs on one PostgreSQL; each draws some."""
    database = postgres.create()
    address = database.replace("postgresql+psycopg", "postgresql")
    settings = LITTLE | {"models": tiny_folder, "database": address}
    with serving(**settings) as (url, _), serving(**settings) as (doomed_url, doomed):
        worker = engine(doomed_url)["worker_pid"]
        os.kill(worker, signal.SIGSTOP)  # what it claims is not drawn before it is killed
        ids = accept(doomed_url, range(15)) + accept(url, range(15, 30))
        kill(doomed, worker)
        assert_all_drawn(url, ids, range(30))
        made = sql.create_engine(database)
        with made.connect() as connection:
            again = "SELECT count(*) FROM jobs WHERE fence = 2 AND losses = 1"
            assert connection.exec_driver_sql(again).scalar(), "it had none"
        made.dispose()
        assert sorted(ends_told(url, 30)) == sorted(ids)
        assert_each_ended_once(database, 30, images=45)
