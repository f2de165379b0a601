"""How the server ends: by a signal, by two, with work that can be done and work that cannot."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.live import SERVE, alive, engine, serving, wait_until, web

pytestmark = pytest.mark.server
LONG = {"class": "cat", "steps": 1000, "n": 16, "seed": 1, "timeout": 3600}


def settings(folder: Path, **others: object) -> dict[str, object]:
    return {"models": folder, "backend": "eager", **others}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_status_0_and_answers_everybody(
    tiny_folder: Path, number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    """What cannot be done in time is told so at once; what can be is done; half a body is not."""
    with (
        serving(SERVE, **settings(tiny_folder, drain_seconds=4, slots=2)) as (url, process),
        ThreadPoolExecutor(16) as pool,
    ):
        long = [
            pool.submit(web.post, f"{url}/generate", json=LONG | {"seed": k}, timeout=60)
            for k in range(8)
        ]
        wait_until(lambda: engine(url)["jobs"] == 8)
        wanted = {"class": "cat", "steps": 20, "seed": 1}
        short = pool.submit(web.post, f"{url}/generate", json=wanted, timeout=60)
        wait_until(lambda: engine(url)["jobs"] == 9)
        half = socket.create_connection(("127.0.0.1", httpx.URL(url).port or 0))
        half.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        time.sleep(0.2)
        began = time.monotonic()
        process.send_signal(number)
        assert b"HTTP/1.1 503 " in half.recv(1 << 16)
        half.close()
        refused = [answer for answer in (one.result() for one in long) if answer.status_code != 200]
        assert refused
        for answer in refused:
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert "the server" in answer.json()["detail"]
        assert short.result().status_code == 200
        assert process.wait(30) == 0
        assert time.monotonic() - began < 30
    told = capfd.readouterr()
    assert "Traceback" not in told.err
    assert "Aborted" not in told.err + told.out


def test_a_second_signal_ends_it_at_once(tiny_folder: Path) -> None:
    with (
        serving(SERVE, **settings(tiny_folder, drain_seconds=600)) as (url, process),
        ThreadPoolExecutor(16) as pool,
    ):
        worker = engine(url)["worker_pid"]
        busy = pool.submit(web.post, f"{url}/generate", json=LONG, timeout=60)
        wait_until(lambda: engine(url)["running"])
        os.kill(worker, signal.SIGSTOP)  # nor does it need the worker's consent
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 128 + signal.SIGTERM
        assert isinstance(busy.exception(), httpx.TransportError)
        wait_until(lambda: not alive(worker))
        process.returncode = 0  # what `serving` expects


def test_a_signal_before_it_serves_ends_it_too(tiny_folder: Path) -> None:
    environment = {**os.environ, "DARKROOM_MODELS": str(tiny_folder), "DARKROOM_PORT": "0"}
    command = (sys.executable, "-m", "app.cli", "serve")
    process = subprocess.Popen(command, env=environment)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
