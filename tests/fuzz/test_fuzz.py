"""A short run of `python -m tests.fuzz`, the same every time."""

import asyncio
import random
from pathlib import Path

from tests.e2e import live
from tests.e2e.live import web
from tests.fuzz.folders import refusal
from tests.fuzz.run import fuzz, resident


def test_nothing_that_is_nearly_right_is_a_fault_of_the_server(url: str) -> None:
    worker = live.engine(url)["worker_pid"]
    found = asyncio.run(fuzz(url, [worker], 8, seed=1))
    assert found.statuses[200]
    assert found.statuses[422]
    assert found.statuses[400]
    assert not found.faults, found.faults[0]
    live.wait_until(lambda: not live.engine(url)["jobs"])
    assert live.engine(url)["worker_pid"] == worker
    assert resident(worker) < found.before[worker] + (100 << 20)
    assert web.get(f"{url}/readyz").status_code == 200


def test_no_folder_does_anything_but_open_or_be_refused(tiny_folder: Path, tmp_path: Path) -> None:
    chance = random.Random(1)
    said = [refusal(chance, tiny_folder, tmp_path / "model") for _ in range(60)]
    refused = [text for text in said if text]
    assert len(refused) > 30
    assert all(str(tmp_path) in text and len(text) < 1000 for text in refused), refused
