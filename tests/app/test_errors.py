"""The table from exceptions to answers, and what a client is told when things go wrong."""

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.engine.errors import EngineBusy, EngineError
from app.errors import MEDIA_TYPE, STATUS, JobError, RequestError
from app.http import problems


def leaves(kind: type[Exception]) -> set[type[Exception]]:
    below = kind.__subclasses__()
    return {kind} if not below else set().union(*(leaves(child) for child in below))


def test_every_error_has_its_line_in_the_table() -> None:
    assert set(STATUS) == leaves(RequestError) | leaves(EngineError) | leaves(JobError)
    assert all(400 <= status < 600 for status, _ in STATUS.values())


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()
    problems.install(app)

    @app.get("/busy")
    def busy() -> None:
        raise EngineBusy("8 requests are waiting", retry_after=12)

    @app.get("/bug")
    def bug() -> None:
        raise RuntimeError("the password is swordfish")

    return TestClient(app, raise_server_exceptions=False)


def test_a_full_queue_says_when_to_come_back(client: TestClient) -> None:
    answer = client.get("/busy")
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "12"


def test_a_bug_tells_the_client_nothing_of_itself(client: TestClient) -> None:
    answer = client.get("/bug")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert "swordfish" not in answer.text


def test_pointers_lead_into_the_object_that_has_the_field(server: TestClient) -> None:
    """Whether a dialect's own check finds it, or the native one below."""
    cases = [
        ("/models/tiny", {"inputs": "cat", "parameters": {"seed": -2}}, "#/parameters/seed"),
        ("/models/tiny", {"inputs": "bird"}, "#/inputs"),
        ("/v1/models/x/tiny/predictions", {"input": {"prompt": "bird"}}, "#/input/prompt"),
        (
            "/v1/models/x/tiny/predictions",
            {"input": {"prompt": "cat", "num_outputs": 99}},
            "#/input/num_outputs",
        ),
    ]
    for path, body, pointer in cases:
        (error,) = server.post(path, json=body).json()["errors"]
        assert error["pointer"] == pointer
