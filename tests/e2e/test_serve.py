"""The real server, in a process of its own, with the shipped model and real sockets."""

import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
WANTED = {"class": "7", "steps": 20, "guidance_scale": 1.5, "seed": 1}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"],
        cwd=ROOT,
        env={**os.environ, "DARKROOM_PORT": str(port), "DARKROOM_MODELS": "digits"},
    )
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        assert process.poll() is None, "the server did not start"
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.1)
    yield url
    process.send_signal(signal.SIGTERM)
    # uvicorn raises the signal again once everything is closed.
    assert process.wait(30) in (0, -signal.SIGTERM)


def draw(url: str, body: dict[str, object]) -> bytes:
    answer = httpx.post(f"{url}/generate", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.content


def pixels(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (32, 32)
        return image.tobytes()


def test_the_same_pixels_from_the_command_line_alone_and_in_a_crowd(
    url: str, tmp_path: Path
) -> None:
    flags = ["--model", "digits", "--class", "7", "--steps", "20"]
    flags += ["--guidance-scale", "1.5", "--seed", "1", "--out", str(tmp_path / "seven.png")]
    subprocess.run([sys.executable, "-m", "app.cli", "sample", *flags], cwd=ROOT, check=True)
    offline = (tmp_path / "seven.png").read_bytes()
    alone = draw(url, WANTED)
    crowd: list[dict[str, object]] = [
        {
            "class": None if k % 11 == 10 else k % 10,
            "steps": 5 + 3 * k,
            "guidance_scale": 0.5 * (k % 6),
            "eta": (k % 3) / 2,
            "seed": 1000 + k,
        }
        for k in range(32)
    ]
    with ThreadPoolExecutor(33) as pool:
        others = [pool.submit(draw, url, body) for body in crowd]
        time.sleep(0.2)
        within = pool.submit(draw, url, WANTED).result()
        drawn = [pixels(other.result()) for other in others]
    assert pixels(offline) == pixels(alone) == pixels(within)
    assert len(set(drawn)) == 32
    for k in (0, 10, 31):
        assert pixels(draw(url, crowd[k])) == drawn[k], "a neighbour of the crowd, drawn alone"


def test_a_client_that_leaves_frees_its_slots(url: str) -> None:
    """64 long images fill every slot; once their client is gone a short one is quick."""
    with ThreadPoolExecutor(4) as pool:
        long = {"class": "1", "steps": 1000, "n": 16}

        def leave() -> None:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/generate", json=long, timeout=1.0)

        for waiting in [pool.submit(leave) for _ in range(4)]:
            waiting.result()
    # 16 x 4 images of 1000 guided steps take minutes: an answer before that is the proof.
    answer = httpx.post(f"{url}/generate", json=WANTED, timeout=20)
    assert answer.status_code == 200
