"""The real server, in a process of its own, with the shipped model and real sockets."""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.app.test_listening import has_ipv6
from tests.e2e.live import ROOT, draw, pixels, web

WANTED = {"class": "7", "steps": 20, "guidance_scale": 1.5, "seed": 1}


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
            "steps": 60 + k,
            "guidance_scale": 0.5 * (k % 6),
            "eta": (k % 3) / 2,
            "seed": 1000 + k,
        }
        for k in range(32)
    ]
    limits = httpx.Limits(max_connections=None)
    with ThreadPoolExecutor(33) as pool, httpx.Client(limits=limits) as client:
        others = [pool.submit(draw, url, body, client) for body in crowd]
        time.sleep(0.2)
        within = draw(url, WANTED, client)
        assert not any(other.done() for other in others), "they were in flight all the while"
        drawn = [pixels(other.result()) for other in others]
    assert pixels(offline) == pixels(alone) == pixels(within)
    assert len(set(drawn)) == 32
    for k in (0, 10, 31):
        assert pixels(draw(url, crowd[k])) == drawn[k], "a neighbour of the crowd, drawn alone"


def test_a_client_that_leaves_frees_its_slots(url: str) -> None:
    """64 long images fill every slot; once their client is gone a short one is quick."""
    with ThreadPoolExecutor(4) as pool:
        long = {"class": "1", "steps": 1000, "n": 16, "timeout": 3600}

        def leave() -> None:
            with pytest.raises(httpx.ReadTimeout):
                web.post(f"{url}/generate", json=long, timeout=1.0)

        for waiting in [pool.submit(leave) for _ in range(4)]:
            waiting.result()
    # 16 x 4 images of 1000 guided steps take minutes: an answer before that is the proof.
    answer = web.post(f"{url}/generate", json=WANTED, timeout=20)
    assert answer.status_code == 200


def test_a_body_of_100_megabytes_is_refused(url: str) -> None:
    """By its declared length; and where none is declared, as it comes in."""

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1_000_000

    for content in (b" " * 100_000_000, endless()):
        headers = {"content-type": "application/json"}
        with httpx.Client(timeout=30) as client:
            answer = client.post(f"{url}/generate", content=content, headers=headers)
        assert answer.status_code == 413
        assert answer.json()["detail"] == "the body is too large; allowed: 65536 bytes"


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/docs",
        "/engine",
        "/health",
        "/livez",
        "/models",
        "/openapi.json",
        "/readyz",
        "/sdapi/v1/options",
        "/sdapi/v1/sd-models",
        "/static/swagger/swagger-ui.css",
        "/v1/models",
        "/v2",
        "/v2/health/ready",
        "/v2/models/digits",
    ],
)
def test_head_is_a_get_without_its_body(url: str, path: str) -> None:
    """As probes and `wget --spider` ask; on a connection that goes on."""
    with httpx.Client(base_url=url) as client:
        head, got, again = client.head(path), client.get(path), client.head(path)
    assert head.content == again.content == b""
    assert head.status_code == got.status_code == again.status_code
    if path != "/engine":  # whose numbers move
        assert head.headers.get("content-length") == got.headers.get("content-length")
    assert head.headers.get("content-type") == got.headers.get("content-type")


def test_both_kinds_of_address_are_answered(url: str) -> None:
    """`localhost` is what people type, and what it stands for is the client's to choose."""
    port = httpx.URL(url).port
    for host in ("127.0.0.1", "localhost", *(["[::1]"] if has_ipv6() else [])):
        assert web.get(f"http://{host}:{port}/livez").json() == {"status": "alive"}
