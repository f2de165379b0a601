"""A worker that is killed under load: every request is answered, with the pixels it always had."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from app.client import Client
from benchmarks.device.findings import Row, Setting
from benchmarks.device.served import get, server

_KNOWN = 6  # requests that are drawn before as well
_PATIENCE = 60.0  # seconds


def kill_worker(setting: Setting) -> Iterator[Row]:
    # A GPU has made fewer steps before anybody can kill its worker.
    count, steps = (8, 60) if setting.small else (40, 500)
    with server(setting) as (ours, _), ThreadPoolExecutor(count) as pool:

        def draw(seed: int) -> bytes:
            with Client(ours.url) as client:
                return client.picture(class_="7", steps=steps, guidance_scale=2.5, seed=seed)

        known = [draw(seed) for seed in range(_KNOWN)]
        asked = [pool.submit(draw, seed) for seed in range(count)]
        until = time.monotonic() + _PATIENCE
        while not get(ours, "/engine")["running"] and time.monotonic() < until:
            time.sleep(0.002)
        began = time.monotonic()
        os.kill(get(ours, "/engine")["worker_pid"], signal.SIGKILL)
        failed = [error for one in asked if (error := one.exception(_PATIENCE))]
        taken, restarts = time.monotonic() - began, get(ours, "/engine")["restarts"]
        same = not failed and [one.result() for one in asked[:_KNOWN]] == known
    yield {
        "as it should": same and restarts == 1,
        "seen": f"{count - len(failed)} of {count} answered, "
        f"{'as' if same else 'not as'} before, {restarts} restarts, "
        f"{taken:.1f} s until the last answer" + "".join(f"; {error!r}" for error in failed[:1]),
    }
