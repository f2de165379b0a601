"""Jobs that were accepted are finished, each once, though servers and workers are killed."""

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.live import engine, serving, wait_until

pytestmark = pytest.mark.server

COUNT = 50


def bodies() -> list[dict[str, Any]]:
    return [
        {
            "class": ("cat", "dog", "3")[k % 3],
            "steps": 4 + k % 7,
            "eta": (0, 0.5)[k % 2],
            "n": 1 + k % 2,
            "guidance_scale": (1, 2.5)[k % 2],
        }
        | ({"seed": 1000 + k} if k % 5 else {})
        for k in range(COUNT)
    ]


def accept_all(url: str) -> list[str]:
    """The ids of the jobs; some with a seed of the server's choice."""
    ids = []
    for body in bodies():
        answer = httpx.post(f"{url}/generate", json=body, headers={"prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["id"])
    return ids


def kill(url: str, server: "subprocess.Popen[bytes]") -> None:
    worker = engine(url)["worker_pid"]
    os.kill(server.pid, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    server.wait()


def all_jobs(url: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = httpx.get(f"{url}/jobs?limit=100").json()["jobs"]
    return listed


def assert_all_drawn(url: str, ids: list[str]) -> None:
    """Each once, with the bytes of the same request drawn at once."""
    wait_until(lambda: all(job["ended_at"] for job in all_jobs(url)), 120)
    jobs = all_jobs(url)[::-1]
    assert [job["id"] for job in jobs] == ids
    for job, body in zip(jobs, bodies(), strict=True):
        assert (job["status"], job["error"]) == ("succeeded", None)
        images = job["result"]["images"]
        assert len(images) == body["n"]
        for image in images:
            alone = body | {"seed": image["seed"], "n": 1}
            assert (
                httpx.get(url + image["url"]).content
                == httpx.post(f"{url}/generate", json=alone, timeout=60).content
            ), job


def test_all_jobs_are_finished_after_kill_9(tiny_folder: Path, tmp_path: Path) -> None:
    settings: dict[str, object] = {
        "models": tiny_folder,
        "backend": "eager",
        "slots": 4,
        "state_folder": tmp_path,
        "jobs_lease_seconds": 1,
    }
    with pytest.raises(httpx.TransportError), serving(**settings) as (url, server):  # noqa: PT012
        ids = accept_all(url)
        wait_until(lambda: any(job["status"] == "succeeded" for job in all_jobs(url)), 60)
        before = [job for job in all_jobs(url) if job["status"] == "succeeded"]
        kill(url, server)
        httpx.get(f"{url}/livez")  # nobody answers
    assert 0 < len(before) < COUNT
    with serving(**settings) as (url, _):
        assert_all_drawn(url, ids)
        after = {job["id"]: job for job in all_jobs(url)}
        assert all(after[job["id"]] == job for job in before), "drawn twice"
