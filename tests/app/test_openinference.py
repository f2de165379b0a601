"""The Open Inference Protocol's health and metadata, over HTTP."""

from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings


@pytest.fixture
def unloaded(tiny_folder: Path) -> TestClient:
    """A server that has begun nothing: its models are not loaded."""
    return TestClient(create_app(Settings(models=(str(tiny_folder),))), base_url="http://localhost")


def assert_error(answer: httpx.Response, status: int) -> str:
    """The protocol's error object, and nothing but; gives what it says."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json()) == {"error"}
    said: str = answer.json()["error"]
    return said


def version(server: TestClient) -> str:
    models = server.get("/models").json()["models"]
    return str(models[0]["hash"])


def test_the_server_says_what_it_is(server: TestClient) -> None:
    number = server.get("/openapi.json").json()["info"]["version"]
    answer = server.get("/v2")
    assert answer.status_code == 200
    assert answer.json() == {"name": "darkroom", "version": number, "extensions": []}


def test_probes_of_a_server_that_is_ready(server: TestClient) -> None:
    for path, body in (
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        (f"/v2/models/tiny/versions/{version(server)}/ready", {"name": "tiny", "ready": True}),
    ):
        answer = server.get(path)
        assert (answer.status_code, answer.json()) == (200, body)


def test_probes_of_a_server_that_is_not(unloaded: TestClient) -> None:
    for path, status, body in (
        ("/v2/health/live", 200, {"live": True}),
        ("/v2/health/ready", 503, {"ready": False}),
        ("/v2/models/tiny/ready", 503, {"name": "tiny", "ready": False}),
        ("/v2/models/shoes/ready", 503, {"name": "shoes", "ready": False}),
        ("/v2/models/tiny/versions/1/ready", 503, {"name": "tiny", "ready": False}),
    ):
        answer = unloaded.get(path)
        assert (answer.status_code, answer.json()) == (status, body)
    assert unloaded.get("/v2").status_code == 200
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        assert "not loaded" in assert_error(unloaded.get(path), 503)


def test_a_model_says_what_it_takes_and_gives(server: TestClient) -> None:
    body = server.get("/v2/models/tiny").json()
    inputs, outputs = body.pop("inputs"), body.pop("outputs")
    assert body == {"name": "tiny", "versions": [version(server)], "platform": "darkroom"}
    fields = server.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]
    assert {tensor["name"] for tensor in inputs} <= set(fields["properties"])
    assert all(tensor["shape"] == [1] for tensor in inputs)
    (images,) = outputs
    assert images == {"name": "images", "datatype": "UINT8", "shape": [-1, 16, 16, -1]}


def test_the_version_of_a_model_may_be_asked_for(server: TestClient) -> None:
    answer = server.get(f"/v2/models/tiny/versions/{version(server)}")
    assert answer.json() == server.get("/v2/models/tiny").json()


@pytest.mark.parametrize("path", ["", "/ready"])
def test_what_is_not_there_is_not_found(server: TestClient, path: str) -> None:
    for name in ("shoes", "shoes/versions/1"):
        said = assert_error(server.get(f"/v2/models/{name}{path}"), 404)
        assert said == "unknown model 'shoes'; loaded: tiny"
    said = assert_error(server.get(f"/v2/models/tiny/versions/1{path}"), 404)
    assert said == f"unknown version '1'; loaded: {version(server)}"


def test_tensors_are_not_taken_and_it_is_told_as_an_error(server: TestClient) -> None:
    answer = server.post("/v2/models/tiny/infer", json={"inputs": []})
    assert answer.status_code == 404
    assert isinstance(answer.json()["error"], str)


def test_the_document_describes_every_answer(server: TestClient) -> None:
    document = server.get("/openapi.json").json()
    described = {
        path: methods["get"] for path, methods in document["paths"].items() if path[:3] == "/v2"
    }
    assert {operation["operationId"] for operation in described.values()} == {
        "oipServerMetadata",
        "oipServerLive",
        "oipServerReady",
        "oipModelMetadata",
        "oipModelVersionMetadata",
        "oipModelReady",
        "oipModelVersionReady",
    }
    for path, operation in described.items():
        assert operation["summary"]
        assert "404" in operation["responses"] or "/models/" not in path
        assert "503" in operation["responses"] or path in ("/v2", "/v2/health/live")
