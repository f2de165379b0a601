"""Every stream of events says that nobody on the way may hold it back."""

import pytest
from fastapi.testclient import TestClient

QUICK = {"class": "cat", "steps": 2, "seed": 1}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/generate", QUICK),
        ("POST", "/generate", QUICK | {"n": 2}),
        ("POST", "/generate", {"inputs": "cat", "parameters": {"num_inference_steps": 2}}),
        ("POST", "/models/tiny", {"inputs": "cat", "parameters": {"num_inference_steps": 2}}),
        ("POST", "/v1/images/generations", {"prompt": "cat", "steps": 2, "stream": True}),
        ("GET", "/generate?class=cat&steps=2&seed=1", None),
        ("GET", "/generate?class=cat&steps=2", None),
        ("HEAD", "/generate?class=cat&steps=2&seed=1", None),
        ("HEAD", "/generate?class=cat&steps=2", None),
    ],
)
def test_a_stream_is_neither_kept_nor_changed_on_the_way(
    server: TestClient, method: str, path: str, body: object
) -> None:
    headers = {"accept": "text/event-stream"}
    answer = server.request(method, path, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    if method != "HEAD":
        assert "event: " in answer.text
