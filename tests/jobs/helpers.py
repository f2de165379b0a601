"""Jobs by HTTP: accepted, and awaited."""

from typing import Any

import httpx
from fastapi.testclient import TestClient

from tests.e2e.live import wait_until

ASYNC = {"prefer": "respond-async"}


def accept(http: TestClient, kind: str = "*/*", **wanted: Any) -> httpx.Response:
    """The answer to a request that became a job."""
    headers = ASYNC | {"accept": kind}
    answer = http.post("/generate", json={"class": "a", "steps": 3} | wanted, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer


def finished(http: TestClient, path: str) -> dict[str, Any]:
    """A job that has ended by now."""
    told: dict[str, Any] = {}

    def ended() -> bool:
        told.update(http.get(path).json())
        return told["status"] not in ("queued", "running")

    wait_until(ended)
    return told
