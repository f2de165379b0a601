"""Hugging Face's inference API, over HTTP, with a real engine and a tiny model."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine.job import MAX_SEED
from app.main import create_app
from app.settings import Settings

MODEL = "/models/tiny"
QUICK = {"num_inference_steps": 2, "seed": 1}


@pytest.fixture(params=["/generate", MODEL])
def path(request: pytest.FixtureRequest) -> str:
    """Clients are given either as the address of an endpoint."""
    return str(request.param)


def ask(server: TestClient, path: str, inputs: object = "cat", **parameters: object) -> Any:
    body = {"inputs": inputs, "parameters": QUICK | parameters}
    return server.post(path, json=body, headers={"accept": "image/png"})


def native(server: TestClient, accept: str = "image/png", **wanted: Any) -> bytes:
    body = {"class": "cat", "steps": 2, "seed": 1} | wanted
    answer = server.post("/generate", json=body, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return answer.content


def assert_problem(answer: httpx.Response, status: int) -> str:
    """Problem details with what these clients show, a string `error`; gives that."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["error"] == body["detail"]
    shown: str = body["error"]
    return shown


def test_an_image_is_the_native_one(server: TestClient, path: str) -> None:
    answer = ask(server, path, "a dog, please", guidance_scale=2.5, eta=0.5)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "1"
    assert answer.content == native(server, **{"class": "dog"}, guidance_scale=2.5, eta=0.5)


def test_parameters_may_be_left_out(server: TestClient, path: str) -> None:
    for body in ({"inputs": "3"}, {"inputs": "3", "parameters": None}):
        answer = server.post(path, json=body)
        seed = int(answer.headers["x-seed"])
        assert answer.content == native(server, **{"class": "3"}, steps=50, seed=seed)


def test_an_empty_prompt_is_any_class(server: TestClient, path: str) -> None:
    assert ask(server, path, "").content == native(server, **{"class": None})


def test_what_the_clients_are_known_to_send(server: TestClient, path: str) -> None:
    """As captured: every parameter of the Python client, and the JavaScript one's least."""
    size = {"height": 64, "width": 64, "scheduler": "DDIM"}
    answer = ask(server, path, "a cat", negative_prompt="dog", guidance_scale=7.5, **size)
    assert answer.content == native(server, guidance_scale=7.5)
    answer = server.post(path, json={"inputs": "a cat"}, headers={"accept": "*/*"})
    assert answer.headers["content-type"] == "image/png"


def test_what_means_nothing_here_is_ignored_and_null_is_absent(
    server: TestClient, path: str
) -> None:
    answer = ask(server, path, num_images_per_prompt=4, guidance_scale=None, eta=None, x=[1])
    assert answer.content == native(server)
    body = {"inputs": "cat", "parameters": QUICK, "options": {"use_cache": False}}
    assert server.post(path, json=body).content == native(server)


def test_numbers_may_be_written_with_a_point(server: TestClient, path: str) -> None:
    answer = ask(server, path, num_inference_steps=2.0, seed=1.0, guidance_scale=2)
    assert answer.content == native(server, guidance_scale=2)


@pytest.mark.parametrize("media_type", ["image/webp", "image/jpeg"])
def test_files_are_of_the_format_that_is_accepted(
    server: TestClient, path: str, media_type: str
) -> None:
    body = {"inputs": "cat", "parameters": QUICK}
    answer = server.post(path, json=body, headers={"accept": media_type})
    assert answer.headers["content-type"] == media_type
    assert answer.content == native(server, media_type)


def test_an_answer_may_be_json(server: TestClient, path: str) -> None:
    body = {"inputs": "cat", "parameters": QUICK}
    answer = server.post(path, json=body, headers={"accept": "application/json"})
    (image,) = answer.json()["images"]
    assert base64.b64decode(image["data"]) == native(server)


def test_a_body_may_come_as_curl_sends_it(server: TestClient, path: str) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    content = json.dumps({"inputs": "cat", "parameters": QUICK})
    assert server.post(path, content=content, headers=form).content == native(server)


def test_the_body_may_name_a_model_and_the_path_decides(server: TestClient) -> None:
    body = {"inputs": "cat", "parameters": QUICK, "model": "tiny"}
    assert server.post("/generate", json=body).content == native(server)
    shown = assert_problem(server.post("/generate", json=body | {"model": "shoes"}), 404)
    assert shown == "unknown model 'shoes'; loaded: tiny"
    assert server.post(MODEL, json=body | {"model": "shoes"}).content == native(server)
    shown = assert_problem(server.post("/models/shoes", json=body), 404)
    assert shown == "unknown model 'shoes'; loaded: tiny"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("num_inference_steps", wrong) for wrong in (0, 1001, "5.5", 1.5, True, [1])),
        *(("seed", wrong) for wrong in (-2, MAX_SEED + 1, str(MAX_SEED + 1), 10**400)),
        *(
            ("guidance_scale", wrong)
            for wrong in (-0.1, 30.1, "31", float("nan"), float("inf"), 10**400)
        ),
        *(("eta", wrong) for wrong in (-0.1, 1.1, "2", "some")),
    ],
)
def test_a_wrong_parameter_is_named(
    server: TestClient, path: str, field: str, value: object
) -> None:
    content = json.dumps({"inputs": "cat", "parameters": QUICK | {field: value}})
    answer = server.post(path, content=content, headers={"content-type": "application/json"})
    assert assert_problem(answer, 422).startswith(f"{field}: ")


@pytest.mark.parametrize("prompt", ["a bird", "a cat and a dog"])
def test_a_prompt_that_names_no_class_is_told_the_classes(
    server: TestClient, path: str, prompt: str
) -> None:
    shown = assert_problem(ask(server, path, prompt), 422)
    assert shown.startswith("inputs: names ")
    assert shown.endswith("cat, dog, 3")


@pytest.mark.parametrize("inputs", [None, 7, ["cat"], {}])
def test_inputs_are_text(server: TestClient, path: str, inputs: object) -> None:
    told = assert_problem(ask(server, path, inputs), 422)
    assert told.startswith("inputs: must be a string (allowed: a text that names one of: cat, dog")


@pytest.mark.parametrize("parameters", ["", [], 0, False, "seed"])
def test_parameters_are_an_object(server: TestClient, path: str, parameters: object) -> None:
    answer = server.post(path, json={"inputs": "cat", "parameters": parameters})
    assert assert_problem(answer, 422) == "parameters: must be an object or null"


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"\xff\xfe", 400), (b"", 422), (b"[1]", 422), (b"null", 422), (b"{}", 422)],
)
def test_a_body_that_says_nothing_is_refused(
    server: TestClient, content: bytes, status: int
) -> None:
    answer = server.post(MODEL, content=content, headers={"content-type": "application/json"})
    assert_problem(answer, status)


def test_bodies_and_formats_that_there_are_not(server: TestClient, path: str) -> None:
    answer = server.post(path, content=b"7", headers={"content-type": "text/plain"})
    assert "application/json" in assert_problem(answer, 415)
    answer = server.post(path, json={"inputs": "x" * 100_000})
    assert "65536" in assert_problem(answer, 413)
    answer = server.post(path, json={"inputs": "cat"}, headers={"accept": "text/html"})
    assert "image/png" in assert_problem(answer, 406)


def test_before_the_models_are_loaded_it_says_so(tiny_folder: Path, path: str) -> None:
    client = TestClient(
        create_app(Settings(models=(str(tiny_folder),))), base_url="http://localhost"
    )  # no lifespan: not loaded
    assert_problem(ask(client, path), 503)


def test_the_document_describes_the_body(server: TestClient) -> None:
    operation = server.get("/openapi.json").json()["paths"]["/models/{name}"]["post"]
    assert operation["operationId"] == "huggingFaceTextToImage"
    content = operation["requestBody"]["content"]["application/json"]
    parameters, null = content["schema"]["properties"]["parameters"]["anyOf"]
    assert null == {"type": "null"}
    assert set(parameters["properties"]) == {
        "negative_prompt",
        "clip_skip",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "eta",
        "scheduler",
        "width",
        "height",
    }
    for example in content["examples"].values():  # the documentation speaks of digits
        assert server.post(MODEL, json=example["value"] | {"inputs": "cat"}).status_code == 200
