"""Workers that are killed, that a request kills, that hang; a server that is killed or stopped.

Over the tiny model and the eager backend, so that a worker starts soon: how one ends and the next
begins is the same for all. That a new process draws the same is seen to by test_verify.py.
"""

import contextlib
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.deadly_worker import DEADLY
from tests.e2e.live import SERVE, alive, draw, engine, ready, serving, wait_until, web

pytestmark = pytest.mark.server


@pytest.fixture
def little(tiny_folder: Path) -> dict[str, object]:
    return {"models": tiny_folder, "backend": "eager"}


def bodies(count: int, first: int, most: int) -> list[dict[str, object]]:
    chance = random.Random(first)
    return [
        {
            "class": chance.choice(["cat", "dog", "3"]),
            "steps": chance.randint(5, most),
            "guidance_scale": chance.choice([1, 2.5]),
            "eta": chance.choice([0, 0.5]),
            "seed": first + k,
        }
        for k in range(count)
    ]


def test_a_worker_killed_three_times_under_load_is_not_noticed(little: dict[str, object]) -> None:
    wanted = bodies(24, 1000, most=40)
    limits = httpx.Limits(max_connections=None)
    with serving(**little) as (url, _), httpx.Client(limits=limits) as client:
        killed: list[int] = []
        over = threading.Event()

        def kill() -> None:
            for _ in range(3):
                wait_until(lambda: engine(url)["ready"] and engine(url)["running"])
                time.sleep(0.3)
                killed.append(pid := engine(url)["worker_pid"])
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: engine(url)["worker_pid"] not in (None, pid))
            over.set()

        def keep_busy(k: int) -> None:
            """So that every kill finds some at work."""
            while not over.is_set():
                draw(url, {"class": "cat", "steps": 40, "seed": k}, client)

        with ThreadPoolExecutor(60) as pool:
            assassin = pool.submit(kill)
            others = [pool.submit(keep_busy, k) for k in range(8)]
            made = list(pool.map(lambda body: draw(url, body, client), wanted))
            assassin.result()
            for other in others:
                other.result()
        stats = engine(url)
        assert len(set(killed)) == 3
        assert stats["restarts"] == 3
        assert stats["jobs"] == 0
        wait_until(lambda: engine(url)["running"] == 0)
        for body, png in list(zip(wanted, made, strict=True))[::8]:
            assert draw(url, body, client) == png
        assert not any(alive(pid) for pid in killed)


def test_a_request_that_kills_every_worker_fails_alone(little: dict[str, object]) -> None:
    command = (sys.executable, "-m", "tests.e2e.deadly_server")
    wanted = bodies(12, 2000, most=40)
    with serving(command, **little) as (url, _), ThreadPoolExecutor(13) as pool:
        deadly = {"class": "cat", "steps": 10, "seed": DEADLY}
        first = pool.submit(web.post, f"{url}/generate", json=deadly, timeout=240)
        others = [pool.submit(draw, url, body) for body in wanted]
        answer = first.result()
        assert answer.status_code == 500
        assert answer.json()["detail"] == "the worker died each time it ran this request"
        made = [other.result() for other in others]
        assert draw(url, wanted[0]) == made[0]
        stats = engine(url)
        assert stats["restarts"] == 4, "twice with the others, twice alone"
        assert stats["jobs"] == 0


def test_a_worker_that_hangs_is_replaced_and_nobody_notices(little: dict[str, object]) -> None:
    """At work; then idle, and the next one while it loads. A server that is stopped kills none."""
    wanted = bodies(24, 3000, most=40)
    with (
        serving(hang_seconds=2, **little) as (url, process),
        httpx.Client(limits=httpx.Limits(max_connections=None)) as client,
        ThreadPoolExecutor(40) as pool,
    ):
        under_load = [pool.submit(draw, url, body, client) for body in wanted]
        wait_until(lambda: engine(url)["running"])
        first = engine(url)["worker_pid"]
        os.kill(first, signal.SIGSTOP)
        wait_until(lambda: not ready(url, process))
        made = [each.result() for each in under_load]
        second = engine(url)["worker_pid"]
        assert second != first
        assert not alive(first)

        long = [pool.submit(draw, url, {"class": "cat", "steps": 700, "seed": k}) for k in range(4)]
        wait_until(lambda: engine(url)["running"])
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        assert all(each.result() for each in long)
        assert engine(url)["worker_pid"] == second

        os.kill(second, signal.SIGSTOP)
        time.sleep(2.5)
        assert ready(url, process), "nobody wants anything of it"
        others = [pool.submit(draw, url, body, client) for body in wanted]
        wait_until(lambda: engine(url)["worker_pid"] not in (None, second))
        os.kill(third := engine(url)["worker_pid"], signal.SIGSTOP)
        wait_until(lambda: engine(url)["worker_pid"] not in (None, third))
        again = [each.result() for each in others]
        assert engine(url)["restarts"] == 3
        assert made == again
        for body, png in list(zip(wanted, made, strict=True))[::8]:
            assert draw(url, body, client) == png


def test_a_first_worker_that_hangs_and_a_bad_model_do_not_keep_a_server_from_starting(
    tiny_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()

    def stop(url: str) -> None:
        def found() -> object:
            with contextlib.suppress(httpx.TransportError):
                return engine(url)["worker_pid"]

        wait_until(found)
        os.kill(engine(url)["worker_pid"], signal.SIGSTOP)

    models = f"{tmp_path / 'bad'},{tiny_folder}"
    with serving(SERVE, stop, models=models, backend="eager", hang_seconds=2) as (url, process):
        assert engine(url)["restarts"] == 1
        listed = web.get(f"{url}/models").json()
        assert [(model["name"], model["default"]) for model in listed["models"]] == [("tiny", True)]
        reason = "bad: not a model folder: model_index.json is missing"
        assert listed["failed"] == [{"name": "bad", "reason": reason}]
        answer = web.post(f"{url}/generate", json={"model": "bad"})
        assert answer.status_code == 503
        assert reason in answer.json()["detail"]
        assert draw(url, {"class": "cat", "seed": 1})

        os.kill(engine(url)["worker_pid"], signal.SIGSTOP)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.wait(30)
        assert time.monotonic() - began < 10, "2 s of drain and 2 of grace at most"


def test_no_worker_outlives_its_server(little: dict[str, object]) -> None:
    """Killed, the server cannot say good-bye."""
    with serving(**little) as (url, process):
        worker = engine(url)["worker_pid"]
        with ThreadPoolExecutor(1) as pool:
            long = {"class": "cat", "steps": 1000, "n": 16}
            busy = pool.submit(web.post, f"{url}/generate", json=long, timeout=60)
            wait_until(lambda: engine(url)["running"])
            process.kill()
            assert isinstance(busy.exception(), httpx.TransportError)
        wait_until(lambda: not alive(worker))
        process.wait()
        process.send_signal = lambda _: None  # type: ignore[method-assign]
        process.returncode = 0  # as `serving` expects
