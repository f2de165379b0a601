"""A worker that is killed, one that a request kills, and a server that is killed."""

import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.e2e.deadly_worker import DEADLY
from tests.e2e.live import alive, draw, engine, pixels, serving, wait_until


def bodies(count: int, first: int) -> list[dict[str, object]]:
    chance = random.Random(first)
    return [
        {
            "class": str(chance.randrange(10)),
            "steps": chance.randint(5, 60),
            "guidance_scale": chance.choice([1, 2.5]),
            "eta": chance.choice([0, 0.5]),
            "seed": first + k,
        }
        for k in range(count)
    ]


def test_a_worker_killed_three_times_under_load_is_not_noticed() -> None:
    wanted = bodies(120, 1000)
    with serving() as (url, _), httpx.Client(limits=httpx.Limits(max_connections=None)) as client:
        killed: list[int] = []
        over = threading.Event()

        def kill() -> None:
            for _ in range(3):
                wait_until(lambda: engine(url)["ready"] and engine(url)["running"], 60)
                time.sleep(0.3)
                killed.append(pid := engine(url)["worker_pid"])
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda pid=pid: engine(url)["worker_pid"] not in (None, pid), 60)
            over.set()

        def keep_busy(k: int) -> None:
            """So that every kill finds some at work."""
            while not over.is_set():
                draw(url, {"class": "1", "steps": 40, "seed": k}, client)

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
        wait_until(lambda: engine(url)["running"] == 0, 5)
        for body, png in list(zip(wanted, made, strict=True))[::4]:
            assert pixels(draw(url, body, client)) == pixels(png)
        assert not any(alive(pid) for pid in killed)


def test_a_request_that_kills_every_worker_fails_alone() -> None:
    command = (sys.executable, "-m", "tests.e2e.deadly_server")
    wanted = bodies(12, 2000)
    with serving(command) as (url, _), ThreadPoolExecutor(13) as pool:
        deadly = {"class": "1", "steps": 10, "seed": DEADLY}
        first = pool.submit(httpx.post, f"{url}/generate", json=deadly, timeout=240)
        others = [pool.submit(draw, url, body) for body in wanted]
        answer = first.result()
        assert answer.status_code == 500
        assert answer.json()["detail"] == "the worker died of it"
        made = [other.result() for other in others]
        assert pixels(draw(url, wanted[0])) == pixels(made[0])
        stats = engine(url)
        assert stats["restarts"] == 4, "twice with the others, twice alone"
        assert stats["jobs"] == 0


def test_no_worker_outlives_its_server() -> None:
    """Killed, the server cannot say good-bye."""
    with serving() as (url, process):
        worker = engine(url)["worker_pid"]
        with ThreadPoolExecutor(1) as pool:
            long = {"class": "1", "steps": 1000, "n": 16}
            busy = pool.submit(httpx.post, f"{url}/generate", json=long, timeout=60)
            wait_until(lambda: engine(url)["running"], 10)
            process.kill()
            assert isinstance(busy.exception(), httpx.TransportError)
        wait_until(lambda: not alive(worker), 5)
        process.wait()
        process.send_signal = lambda _: None  # type: ignore[method-assign]
        process.returncode = 128 + signal.SIGTERM
