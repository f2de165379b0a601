"""Models that come and go in the real server: bytes, memory, and what must not grow."""

import os
import shutil
import signal
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from app.schemas.status import resident_bytes
from tests.e2e.live import alive, draw, engine, serving, wait_until, web

pytestmark = pytest.mark.server

_ROUNDS = 5
_NOISE = 6 << 20  # bytes by which the memory of a process may differ between two moments


def processes(server: int) -> set[int]:
    """A server and all that it started."""
    found = {server}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            except OSError:
                continue
            if int(parent) == server:
                found.add(int(entry.name))
    return found


def resident(pids: Iterable[int]) -> int:
    return sum(resident_bytes(pid) or 0 for pid in pids)


def descriptors(server: int) -> int:
    return len(list(Path(f"/proc/{server}/fd").iterdir()))


def state(url: str, name: str) -> str:
    listed = web.get(f"{url}/models").json()["models"]
    return str(next(model["state"] for model in listed if model["name"] == name))


def test_rounds_of_loading_and_unloading_grow_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    """In each, one request runs when the model is to leave, and another one comes meanwhile."""
    little = {"models": tiny_folder, "backend": "eager", "marking": "false"}
    asked = {"class": "cat", "guidance_scale": 2.5, "seed": 5}
    long, short = asked | {"steps": 100}, asked | {"steps": 31}
    twin = {"model": "twin"}
    with (
        serving(model_folders=tmp_path, **little) as (url, process),
        httpx.Client(base_url=url, timeout=120) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        server = process.pid
        expected = draw(url, long, client), draw(url, short, client)
        shutil.copytree(tiny_folder, tmp_path / "twin")
        assert state(url, "twin") == "unloaded"

        def unload() -> set[int]:
            """The processes that are left."""
            unloaded = client.post("/models/twin/unload").json()
            assert (unloaded["state"], unloaded["memory_bytes"]) == ("unloaded", None)
            return processes(server)

        def round_() -> None:
            running = pool.submit(draw, url, long | twin, client)
            wait_until(lambda: engine(url)["running"] or running.done())
            unloading = pool.submit(client.post, "/models/twin/unload")
            wait_until(lambda: state(url, "twin") == "unloaded")
            late = pool.submit(draw, url, short | twin, client)
            beside = pool.submit(draw, url, short, client)
            assert (running.result(), late.result()) == expected
            assert beside.result() == expected[1]
            assert unloading.result().status_code == 200

        alone = processes(server)
        before = resident(alone - {server})
        round_()
        loaded = processes(server)
        assert resident(loaded - {server}) > before + (50 << 20)
        assert alone == unload()
        early, open_early = resident([server]), descriptors(server)
        for _ in range(_ROUNDS):
            round_()
        assert alone == unload()
        assert not any(map(alive, loaded - alone))
        assert abs(resident(alone - {server}) - before) < _NOISE, "of the other worker"
        assert resident([server]) < early + _NOISE
        assert descriptors(server) <= open_early + 4  # connections of this test
        stats = engine(url)
        assert stats["restarts"] == stats["jobs"] == 0


def test_a_busy_model_goes_on_while_another_s_worker_hangs_or_dies(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "twin")
    little = {"models": tiny_folder, "backend": "eager", "marking": "false"}
    asked = {"class": "dog", "steps": 100, "seed": 6}
    long = asked | {"model": "twin", "steps": 200}
    with (
        serving(model_folders=tmp_path, hang_seconds=2, **little) as (url, _),
        httpx.Client(timeout=120) as client,
        ThreadPoolExecutor(4) as pool,
    ):
        web.post(f"{url}/models/twin/load", timeout=60).raise_for_status()
        expected = draw(url, asked, client), draw(url, long, client)
        for number in (signal.SIGKILL, signal.SIGSTOP):
            workers = {each["model"]: each for each in web.get(f"{url}/engine").json()["workers"]}
            waiting = pool.submit(draw, url, long, client)
            wait_until(lambda: engine(url)["running"])
            os.kill(workers["twin"]["pid"], number)
            assert (draw(url, asked, client), waiting.result()) == expected
        stats = {each["model"]: each for each in web.get(f"{url}/engine").json()["workers"]}
        assert stats["tiny"]["restarts"] == 0
        assert stats["twin"]["restarts"] == 2
