"""OpenAI's Images API, over HTTP, with a real engine and a tiny model."""

import base64
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine.job import MAX_SEED
from app.engine.ledger import Limits
from app.engine.scheduler import Image
from app.files.formats import open_image
from app.main import create_app
from app.settings import Settings
from tests.e2e.live import wait_until
from tests.engine import served
from tests.fakes import FakeRunner

CREATE = "/v1/images/generations"
CHEAP = {"prompt": "cat", "num_inference_steps": 2, "seed": 1}
NO_TOKENS = {"image_tokens": 0, "text_tokens": 0}


def create(server: TestClient, **wanted: Any) -> dict[str, Any]:
    answer = server.post(CREATE, json=CHEAP | wanted)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def file_of(entry: dict[str, Any]) -> bytes:
    return base64.b64decode(entry["b64_json"])


def native(server: TestClient, accept: str = "image/png", **wanted: Any) -> bytes:
    body = {"class": "cat", "steps": 2, "seed": 1} | wanted
    answer = server.post("/generate", json=body, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return answer.content


def assert_error(
    answer: httpx.Response,
    status: int,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
) -> str:
    """OpenAI's envelope, and nothing but; gives its message."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    message: str = body["error"].pop("message")
    assert body["error"] == {"type": kind, "param": param, "code": code}
    assert message
    return message


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """What a stream told: names and data; comments are left out."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = []
    for block in answer.text.strip().split("\n\n"):
        if not block.startswith(":"):
            name, data = block.split("\n")
            told.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return told


def test_an_image_is_the_native_one(server: TestClient) -> None:
    before = int(time.time())
    wanted = CHEAP | {"prompt": "a dog, please", "guidance_scale": 2.5, "num_inference_steps": 7}
    answer = server.post(CREATE, json=wanted)
    assert answer.headers["x-seed"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    (entry,) = body.pop("data")
    assert set(entry) == {"b64_json"}
    assert file_of(entry) == native(server, **{"class": "dog", "guidance_scale": 2.5, "steps": 7})
    assert before <= body.pop("created") <= time.time()
    assert body == {
        "background": "opaque",
        "output_format": "png",
        "quality": "high",
        "size": "16x16",
        "seed": 1,
        "usage": {
            "input_tokens": 0,
            "output_tokens": 0,
            "total_tokens": 0,
            "input_tokens_details": NO_TOKENS,
            "output_tokens_details": NO_TOKENS,
        },
    }


def test_a_prompt_alone_is_enough(server: TestClient) -> None:
    answer = server.post(CREATE, json={"prompt": "3"})
    body = answer.json()
    assert answer.headers["x-seed"] == str(body["seed"])
    assert file_of(body["data"][0]) == native(server, **{"class": "3"}, steps=50, seed=body["seed"])


def test_several_images_have_seeds_that_count_up(server: TestClient) -> None:
    body = create(server, n=2, seed=8)
    assert body["seed"] == 8
    assert [file_of(entry) for entry in body["data"]] == [
        native(server, seed=8),
        native(server, seed=9),
    ]


@pytest.mark.parametrize(
    ("name", "media_type"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")]
)
def test_files_are_of_the_format_that_is_asked_for(
    server: TestClient, name: str, media_type: str
) -> None:
    body = create(server, output_format=name)
    assert body["output_format"] == name
    assert file_of(body["data"][0]) == native(server, media_type)
    link = create(server, output_format=name, response_format="url")["data"][0]["url"]
    assert server.get(link).content == native(server, media_type)


def test_compression_is_the_quality_of_what_loses_something(server: TestClient) -> None:
    def file(kind: str, compression: int | None) -> bytes:
        body = create(server, output_format=kind, output_compression=compression)
        return file_of(body["data"][0])

    for kind in ("jpeg", "webp"):
        assert file(kind, None) == file(kind, 100) != file(kind, 50) != file(kind, 0)
    assert open_image(file("webp", 100)).lossless
    assert not open_image(file("webp", 99)).lossless
    assert file("png", 0) == file("png", 100)


@pytest.mark.parametrize(
    ("wanted", "key"),
    [
        ({}, "b64_json"),
        ({"model": "tiny"}, "b64_json"),
        ({"model": "gpt-image-1"}, "b64_json"),
        ({"model": "dall-e-2"}, "url"),
        ({"model": "dall-e-3", "response_format": None}, "url"),
        ({"model": "dall-e-3", "response_format": "b64_json"}, "b64_json"),
        ({"model": "gpt-image-1", "response_format": "url"}, "url"),
    ],
)
def test_an_image_is_answered_one_way_and_never_both(
    server: TestClient, wanted: dict[str, Any], key: str
) -> None:
    (entry,) = create(server, **wanted)["data"]
    assert set(entry) == {key}


def test_addresses_are_absolute_and_give_each_image_again(server: TestClient) -> None:
    body = create(server, n=2, response_format="url", guidance_scale=3)
    for k, entry in enumerate(body["data"]):
        assert entry["url"].startswith("http://localhost/images/")
        assert entry["url"].endswith(".png")
        again = server.get(entry["url"])
        assert again.content == native(server, seed=1 + k, guidance_scale=3)
        assert again.headers["content-type"] == "image/png"


@pytest.mark.parametrize(
    "model",
    [None, "", "tiny", "gpt-image-1", "gpt-image-2-mini", "chatgpt-image-latest", "dall-e-3"],
)
def test_names_that_clients_cannot_change_are_the_default_model(
    server: TestClient, model: str | None
) -> None:
    (entry,) = create(server, model=model, response_format="b64_json")["data"]
    assert file_of(entry) == native(server)


@pytest.mark.parametrize("model", ["shoes", "gpt-image", "my-dall-e-2", "GPT-IMAGE-1"])
def test_a_model_that_is_not_there_is_not_found(server: TestClient, model: str) -> None:
    answer = server.post(CREATE, json=CHEAP | {"model": model})
    message = assert_error(answer, 404, param="model", code="model_not_found")
    assert message == f"unknown model {model!r}; loaded: tiny"


def test_what_means_nothing_here_is_ignored_and_null_is_absent(server: TestClient) -> None:
    ignored = {
        "size": "1024x1024",
        "quality": "hd",
        "background": "transparent",
        "style": "vivid",
        "moderation": "low",
        "user": "u",
        "negative_prompt": "dog",
        "output_compression": 7,
        "partial_images": 2,
        "an_unknown_field": {"of": ["any", "kind"]},
    }
    body = create(server, **ignored)
    assert file_of(body["data"][0]) == native(server)
    assert (body["size"], body["quality"], body["background"]) == ("16x16", "high", "opaque")
    fields = server.get("/openapi.json").json()["paths"][CREATE]["post"]["requestBody"]["content"]
    names = set(fields["application/json"]["schema"]["properties"]) - set(CHEAP)
    assert file_of(create(server, **dict.fromkeys(names))["data"][0]) == native(server)


def test_what_other_clients_are_known_to_send(server: TestClient) -> None:
    """As captured from ai-sdk and LangChain's JavaScript; the Python clients run for real."""
    sent = {"model": "tiny", "prompt": "a cat", "n": 1, "size": "512x512", "seed": 42, "steps": 20}
    sent |= {"response_format": "b64_json"}
    answer = server.post(CREATE, json=sent, headers={"accept": "*/*"})
    assert file_of(answer.json()["data"][0]) == native(server, steps=20, seed=42)
    sent = {"model": "dall-e-3", "prompt": "a cat", "n": 1, "size": "1024x1024"}
    sent |= {"response_format": "b64_json", "style": "vivid", "quality": "standard"}
    (entry,) = server.post(CREATE, json=sent).json()["data"]
    assert open_image(file_of(entry)).image.size == (16, 16)


def test_whatever_accept_says_the_body_decides(server: TestClient) -> None:
    for accept in ("application/json", "image/png", "text/html", "text/event-stream"):
        answer = server.post(CREATE, json=CHEAP, headers={"accept": accept})
        assert answer.headers["content-type"] == "application/json"
        answer = server.post(CREATE, json=CHEAP | {"stream": True}, headers={"accept": accept})
        assert answer.headers["content-type"].startswith("text/event-stream")


def test_numbers_may_be_written_with_a_point(server: TestClient) -> None:
    body = create(server, n=2.0, seed=1.0, num_inference_steps=2.0, guidance_scale=2)
    assert file_of(body["data"][1]) == native(server, seed=2, guidance_scale=2)


def test_steps_have_two_names(server: TestClient) -> None:
    body = create(server, num_inference_steps=None, steps=3)
    assert file_of(body["data"][0]) == native(server, steps=3)
    assert file_of(create(server, steps=3)["data"][0]) == native(server, steps=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("n", wrong) for wrong in (0, 17, -1, 1.5, "17", "two", True, [1], 10**400)),
        *(("num_inference_steps", wrong) for wrong in (0, 1001, "5.5")),
        ("steps", 0),
        *(("seed", wrong) for wrong in (-2, MAX_SEED + 1, str(MAX_SEED + 1))),
        *(
            ("guidance_scale", wrong)
            for wrong in (-0.1, 30.1, "31", "inf", float("nan"), float("inf"), 10**400)
        ),
        *(("output_compression", wrong) for wrong in (-1, 101)),
        *(("partial_images", wrong) for wrong in (-1, 4)),
        *(("response_format", wrong) for wrong in ("file", 1)),
        ("output_format", "gif"),
        *(("stream", wrong) for wrong in ("perhaps", 2)),
        *(("prompt", wrong) for wrong in (None, 7, ["cat"])),
        ("model", 3),
        ("size", 512),
    ],
)
def test_a_wrong_field_is_named(server: TestClient, field: str, value: object) -> None:
    content = json.dumps(CHEAP | {field: value})
    answer = server.post(CREATE, content=content, headers={"content-type": "application/json"})
    assert assert_error(answer, 400, param=field).startswith(f"{field}: ")


def test_of_several_wrong_fields_the_first_is_the_parameter(server: TestClient) -> None:
    answer = server.post(CREATE, json={"n": 0, "steps": 0})
    message = assert_error(answer, 400, param="prompt")
    assert [said.split(":")[0] for said in message.split("; ")] == ["prompt", "n", "steps"]


def test_a_prompt_that_names_no_class_is_told_the_classes(server: TestClient) -> None:
    for prompt in ("a bird", "a cat and a dog"):
        answer = server.post(CREATE, json=CHEAP | {"prompt": prompt})
        assert assert_error(answer, 400, param="prompt").endswith("cat, dog, 3")
    for wanted in ({}, {"prompt": None}, {"prompt": 7}, {"input": "cat"}):
        answer = server.post(CREATE, json=wanted)
        assert "names one of: cat, dog, 3" in assert_error(answer, 400, param="prompt")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1]", b"null", b'"7"', b"{}"])
def test_a_body_that_says_nothing_is_refused(server: TestClient, content: bytes) -> None:
    answer = server.post(CREATE, content=content, headers={"content-type": "application/json"})
    assert_error(answer, 400, param="prompt" if content == b"{}" else None)


def test_bodies_that_are_not_read(server: TestClient) -> None:
    answer = server.post(CREATE, content=b"7", headers={"content-type": "text/plain"})
    assert "application/json" in assert_error(answer, 415)
    answer = server.post(CREATE, json=CHEAP | {"user": "x" * 100_000})
    assert "65536" in assert_error(answer, 413)


def test_a_body_may_come_as_curl_sends_it(server: TestClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    for content in (json.dumps(CHEAP), "prompt=cat&steps=2&seed=1"):
        answer = server.post(CREATE, content=content, headers=form)
        assert file_of(answer.json()["data"][0]) == native(server)


def test_a_stream_shows_the_image_on_the_way(server: TestClient) -> None:
    wanted = CHEAP | {"num_inference_steps": 12, "stream": True, "partial_images": 3}
    answer = server.post(CREATE, json=wanted, headers={"accept": "application/json"})
    assert answer.headers["x-seed"] == "1"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    told = events_of(answer)
    assert [name for name, _ in told] == [
        *["image_generation.partial_image"] * 3,
        "image_generation.completed",
    ]
    said = {"background": "opaque", "output_format": "png", "quality": "high", "size": "16x16"}
    for index, (name, data) in enumerate(told):
        assert open_image(file_of(data)).image.size == (16, 16)
        assert abs(data.pop("created_at") - time.time()) < 60
        del data["b64_json"]
        if index < 3:
            assert data == said | {"type": name, "partial_image_index": index}
    _, last = told[-1]
    assert last.pop("usage")["input_tokens_details"] == NO_TOKENS
    assert last == said | {"type": "image_generation.completed", "seed": 1, "warnings": []}


@pytest.mark.parametrize(("kind", "media_type"), [("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_stream_ends_in_the_native_image(server: TestClient, kind: str, media_type: str) -> None:
    wanted = CHEAP | {"stream": True, "partial_images": 1, "output_format": kind}
    (_, partial), (_, last) = events_of(server.post(CREATE, json=wanted))
    assert file_of(last) == native(server, media_type)
    assert open_image(file_of(partial)).image.format == kind.upper()


def test_a_stream_shows_no_more_than_there_are_steps_for(server: TestClient) -> None:
    def indices(**wanted: Any) -> list[int]:
        told = events_of(server.post(CREATE, json=CHEAP | {"stream": True} | wanted))
        return [data["partial_image_index"] for _, data in told[:-1]]

    assert indices() == indices(partial_images=0) == []
    assert indices(partial_images=3, num_inference_steps=1) == []
    assert indices(partial_images=3, num_inference_steps=2) == [0]
    assert indices(partial_images=3, num_inference_steps=4) == [0, 1, 2]


def test_a_stream_that_cannot_begin_is_an_error_as_ever(server: TestClient) -> None:
    answer = server.post(CREATE, json=CHEAP | {"stream": True, "n": 2})
    assert "must be 1" in assert_error(answer, 400, param="n")
    answer = server.post(CREATE, json=CHEAP | {"stream": True, "model": "shoes"})
    assert_error(answer, 404, param="model", code="model_not_found")


class Failing(FakeRunner):
    """Fails at every step after so many."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.good = steps

    def step(self, images: Sequence[Image], rows: int) -> None:
        if len(self.batches) >= self.good:
            raise RuntimeError("a bad step")
        super().step(images, rows)


@pytest.mark.parametrize("good", [0, 10])
def test_a_stream_that_fails_says_so_in_its_status_or_else_at_its_end(good: int) -> None:
    runner = Failing(good)
    with served(runner) as (client, _):
        wanted = {"prompt": "a", "steps": 12, "stream": True, "partial_images": 3}
        answer = client.post(CREATE, json=wanted)
    if not good:
        assert_error(answer, 500, "server_error")
        return
    *partial, (name, data) = events_of(answer)
    assert [data["partial_image_index"] for _, data in partial] == list(range(len(partial)))
    assert partial
    assert name == "error"
    assert data["error"].pop("message")
    assert data == {"error": {"type": "server_error", "param": None, "code": None}}


def test_a_full_queue_is_a_rate_limit() -> None:
    runner, wanted = FakeRunner(), {"prompt": "a", "seed": 1}
    full = served(runner, limits=Limits(jobs=1, work=10**6, seconds=60))
    with ThreadPoolExecutor(1) as pool, full as (client, engine):
        runner.gate.hold()
        running = pool.submit(client.post, CREATE, json=wanted)
        wait_until(lambda: engine.jobs)
        for other in ({"prompt": "b"}, {"prompt": "b", "stream": True}):
            answer = client.post(CREATE, json=other)
            assert_error(answer, 429, "rate_limit_error")
            assert 1 <= int(answer.headers["retry-after"]) <= 120
        runner.gate.open()
        assert running.result().status_code == 200


def test_before_the_models_are_loaded_it_says_so(tiny_folder: Path) -> None:
    client = TestClient(
        create_app(Settings(models=(str(tiny_folder),))), base_url="http://localhost"
    )  # no lifespan: not loaded
    for answer in (
        client.post(CREATE, json=CHEAP),
        client.get("/v1/models"),
        client.get("/v1/models/tiny"),
    ):
        assert_error(answer, 503, "server_error")


def test_models_are_listed_and_found(server: TestClient) -> None:
    tiny = {"id": "tiny", "object": "model", "created": 0, "owned_by": "darkroom"}
    assert server.get("/v1/models").json() == {"object": "list", "data": [tiny]}
    assert server.get("/v1/models/tiny").json() == tiny
    for name in ("shoes", "gpt-image-1"):
        answer = server.get(f"/v1/models/{name}")
        assert_error(answer, 404, param="model", code="model_not_found")


def test_the_document_describes_every_answer(server: TestClient) -> None:
    paths = server.get("/openapi.json").json()["paths"]
    create = paths[CREATE]["post"]
    operations = [create, paths["/v1/models"]["get"], paths["/v1/models/{model}"]["get"]]
    assert [operation["operationId"] for operation in operations] == [
        "openaiCreateImage",
        "openaiListModels",
        "openaiGetModel",
    ]
    for operation in operations:
        assert "422" not in operation["responses"]
        for status in set(operation["responses"]) - {"4XX", "403"}:  # told before it is OpenAI's
            content = operation["responses"][status]["content"]
            described = content["application/json"]["schema"]["$ref"]
            assert described.endswith("/ErrorEnvelope") == (status != "200")
    for example in create["requestBody"]["content"]["application/json"]["examples"].values():
        wanted = example["value"]
        if wanted["prompt"] in ("7", "0"):  # the documentation speaks of digits
            wanted["prompt"] = "cat"
        assert server.post(CREATE, json=wanted).status_code == 200
