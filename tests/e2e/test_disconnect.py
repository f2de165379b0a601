"""A client that hangs up frees its slots by the next tick, whatever it speaks.

Replicate's predictions are jobs, which go on: the last test.
"""

import json
import socket

import httpx
import pytest

from tests.e2e.live import engine, wait_until

STEPS = {"num_inference_steps": 1000}
TXT2IMG = {"prompt": "7", "steps": 1000}
REQUESTS: dict[str, tuple[str, str, dict[str, object]]] = {
    "plain": ("/generate", "*/*", {"class": "7", "steps": 1000}),
    "several": ("/generate", "*/*", {"class": "7", "steps": 1000, "n": 16}),
    "zip": ("/generate", "application/zip", {"class": "7", "steps": 1000, "n": 3}),
    "stream": ("/generate", "text/event-stream", {"class": "7", "steps": 1000, "n": 4}),
    "huggingface": ("/models/digits", "image/png", {"inputs": "7", "parameters": STEPS}),
    "openai": ("/v1/images/generations", "*/*", {"prompt": "7", **STEPS}),
    "openai several": ("/v1/images/generations", "*/*", {"prompt": "7", "n": 4, **STEPS}),
    "openai stream": (
        "/v1/images/generations",
        "application/json",
        {"prompt": "7", "stream": True, "partial_images": 2, **STEPS},
    ),
    "automatic1111": ("/sdapi/v1/txt2img", "*/*", TXT2IMG),
    "automatic1111 several": ("/sdapi/v1/txt2img", "*/*", TXT2IMG | {"batch_size": 4}),
}


def send(url: str, request: bytes) -> socket.socket:
    address = httpx.URL(url)
    connection = socket.create_connection((address.host, address.port or 80))
    connection.sendall(request)
    return connection


def hang_up(url: str, request: bytes) -> None:
    """Send a request, wait until it runs, leave, and wait until its slots are free."""
    before = engine(url)
    assert before["running"] == 0
    with send(url, request):
        wait_until(lambda: engine(url)["running"] > 0)
    wait_until(lambda: engine(url)["running"] == 0)
    after = engine(url)
    assert after["cancelled"] == before["cancelled"] + 1
    assert after["jobs"] == 0
    assert after["cancel_ticks"] <= 1


@pytest.mark.parametrize("name", REQUESTS)
def test_hanging_up_frees_the_slots_by_the_next_tick(url: str, name: str) -> None:
    path, accept, body = REQUESTS[name]
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {accept}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    hang_up(url, head.encode() + content)


def test_hanging_up_a_get(url: str) -> None:
    hang_up(url, b"GET /generate?class=7&steps=1000&n=4 HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_a_prediction_goes_on_without_its_client(url: str) -> None:
    body = {"input": {"prompt": "7", "seed": 3, "num_inference_steps": 200}}
    content = json.dumps(body).encode()
    head = "POST /v1/models/x/digits/predictions HTTP/1.1\r\nHost: localhost\r\nPrefer: wait\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    with send(url, head.encode() + content):
        wait_until(lambda: engine(url)["running"] > 0)

    def newest() -> dict[str, object]:
        found: dict[str, object] = httpx.get(f"{url}/v1/predictions").json()["results"][0]
        return found

    assert newest()["input"] == body["input"]
    wait_until(lambda: newest()["status"] not in ("starting", "processing"))
    assert newest()["status"] == "succeeded"
