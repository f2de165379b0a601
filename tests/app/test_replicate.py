"""Replicate's predictions, over HTTP, with a real engine and a tiny model."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine.job import MAX_SEED
from app.files.formats import open_image
from app.main import create_app
from app.settings import Settings

MODEL = "/v1/models/local/tiny"
CREATE = f"{MODEL}/predictions"
QUICK = {"prompt": "cat", "num_inference_steps": 2, "seed": 1}
WAIT = {"prefer": "wait"}


def create(server: TestClient, **wanted: object) -> dict[str, Any]:
    answer = server.post(CREATE, json={"input": QUICK | wanted}, headers=WAIT)
    assert answer.status_code == 201, answer.text
    body: dict[str, Any] = answer.json()
    return body


def files_of(body: dict[str, Any], media_type: str = "image/png") -> list[bytes]:
    head = f"data:{media_type};base64,"
    assert all(address.startswith(head) for address in body["output"])
    return [base64.b64decode(address.removeprefix(head)) for address in body["output"]]


def native(server: TestClient, accept: str = "image/png", **wanted: Any) -> bytes:
    body = {"class": "cat", "steps": 2, "seed": 1} | wanted
    answer = server.post("/generate", json=body, headers={"accept": accept})
    assert answer.status_code == 200, answer.text
    return answer.content


def assert_problem(answer: httpx.Response, status: int) -> str:
    """Problem details, as Replicate's own are; gives the detail."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["title"]
    detail: str = body["detail"]
    return detail


def test_an_image_is_the_native_one(server: TestClient) -> None:
    before = datetime.now(UTC)
    wanted = QUICK | {"prompt": "a dog, please", "guidance_scale": 2.5, "num_inference_steps": 7}
    answer = server.post(CREATE, json={"input": wanted}, headers={"prefer": "wait"})
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-seed"] == "1"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    (file,) = files_of(body)
    assert file == native(server, **{"class": "dog", "guidance_scale": 2.5, "steps": 7})
    times = [body.pop(name) for name in ("created_at", "started_at", "completed_at")]
    assert all(moment.endswith("Z") for moment in times)
    created, started, completed = (datetime.fromisoformat(moment) for moment in times)
    assert before <= created <= started <= completed <= datetime.now(UTC)
    assert body.pop("metrics") == {
        "predict_time": pytest.approx((completed - started).total_seconds()),
        "total_time": pytest.approx((completed - created).total_seconds()),
    }
    here = f"http://localhost/v1/predictions/{body.pop('id')}"
    assert answer.headers["location"] == here
    del body["output"]
    assert body == {
        "model": "local/tiny",
        "version": server.get("/models").json()["models"][0]["sha256"],
        "status": "succeeded",
        "input": wanted,
        "logs": "",
        "error": None,
        "data_removed": False,
        "urls": {"get": here, "cancel": f"{here}/cancel"},
    }


def test_predictions_have_ids_of_their_own(server: TestClient) -> None:
    assert create(server)["id"] != create(server)["id"]


def test_a_prompt_alone_is_enough(server: TestClient) -> None:
    answer = server.post(CREATE, json={"input": {"prompt": "3"}}, headers=WAIT)
    (file,) = files_of(answer.json())
    seed = int(answer.headers["x-seed"])
    assert file == native(server, **{"class": "3"}, steps=50, seed=seed)


def test_any_owner_will_do(server: TestClient) -> None:
    path = "/v1/models/stability-ai/tiny/predictions"
    answer = server.post(path, json={"input": QUICK}, headers=WAIT)
    assert answer.json()["model"] == "stability-ai/tiny"
    assert files_of(answer.json()) == [native(server)]


def test_several_images_have_seeds_that_count_up(server: TestClient) -> None:
    files = files_of(create(server, num_outputs=2, seed=8))
    assert files == [native(server, seed=8), native(server, seed=9)]


@pytest.mark.parametrize(
    ("name", "media_type"), [("png", "image/png"), ("jpg", "image/jpeg"), ("webp", "image/webp")]
)
def test_files_are_of_the_format_that_is_asked_for(
    server: TestClient, name: str, media_type: str
) -> None:
    (file,) = files_of(create(server, output_format=name), media_type)
    assert file == native(server, media_type)


def test_quality_is_of_what_loses_something(server: TestClient) -> None:
    def file(kind: str, media_type: str, quality: int | None) -> bytes:
        body = create(server, output_format=kind, output_quality=quality)
        return files_of(body, media_type)[0]

    for kind, media_type in (("jpg", "image/jpeg"), ("webp", "image/webp")):
        best, good, bad = (file(kind, media_type, quality) for quality in (100, 50, 0))
        assert file(kind, media_type, None) == best != good != bad
    assert open_image(file("webp", "image/webp", 100)).lossless
    assert not open_image(file("webp", "image/webp", 99)).lossless
    assert file("png", "image/png", 0) == file("png", "image/png", 100)


def test_guidance_has_two_names(server: TestClient) -> None:
    assert files_of(create(server, guidance=3)) == [native(server, guidance_scale=3)]
    both = create(server, guidance_scale=2, guidance=3)
    assert files_of(both) == [native(server, guidance_scale=2)]
    null = create(server, guidance_scale=None, guidance=3)
    assert files_of(null) == [native(server, guidance_scale=3)]


def test_what_means_nothing_here_is_ignored_and_null_is_absent(server: TestClient) -> None:
    others = {"aspect_ratio": "1:1", "go_fast": True, "width": 512, "x": {"of": [1]}}
    body = create(server, **others)
    assert files_of(body) == [native(server)]
    assert body["input"] == QUICK | {"width": 512}
    names = {"guidance_scale", "guidance", "num_outputs", "output_format", "output_quality"}
    body = create(server, **dict.fromkeys(names))
    assert files_of(body) == [native(server)]
    assert body["input"] == QUICK | dict.fromkeys(names)
    sent = {"input": QUICK, "webhook": None, "stream": True, "version": "x"}
    assert files_of(server.post(CREATE, json=sent, headers=WAIT).json()) == [native(server)]


def test_what_is_ignored_may_be_what_json_cannot_say(server: TestClient) -> None:
    for value in ("NaN", "-Infinity", "1" * 4000, "[" * 900 + "]" * 900):
        content = json.dumps({"input": QUICK})[:-2] + f', "x": {value}}}}}'
        headers = WAIT | {"content-type": "application/json"}
        answer = server.post(CREATE, content=content, headers=headers)
        assert files_of(answer.json()) == [native(server)]


def test_numbers_may_be_written_with_a_point(server: TestClient) -> None:
    body = create(server, num_outputs=2.0, seed=1.0, num_inference_steps=2.0, guidance_scale=2)
    assert files_of(body)[1] == native(server, seed=2, guidance_scale=2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("num_outputs", wrong) for wrong in (0, 17, -1, 1.5, "17", "two", True, [1], 10**400)),
        *(("num_inference_steps", wrong) for wrong in (0, 1001, "5.5")),
        *(("seed", wrong) for wrong in (-2, MAX_SEED + 1, str(MAX_SEED + 1), "1" * 5000)),
        *(
            (name, wrong)
            for name in ("guidance_scale", "guidance")
            for wrong in (-0.1, 30.1, "31", "nan", float("nan"), float("inf"), 10**400)
        ),
        *(("output_quality", wrong) for wrong in (-1, 101)),
        *(("output_format", wrong) for wrong in ("gif", "image/gif", 1)),
        *(("prompt", wrong) for wrong in (None, 7, ["cat"])),
    ],
)
def test_a_wrong_field_is_named(server: TestClient, field: str, value: object) -> None:
    content = json.dumps({"input": QUICK | {field: value}})
    answer = server.post(CREATE, content=content, headers={"content-type": "application/json"})
    assert assert_problem(answer, 422).startswith(f"{field}: ")


def test_every_wrong_field_is_told(server: TestClient) -> None:
    answer = server.post(CREATE, json={"input": {"seed": -2, "num_outputs": 0}})
    said = assert_problem(answer, 422).split("; ")
    assert [part.split(":")[0] for part in said] == ["prompt", "seed", "num_outputs"]


@pytest.mark.parametrize("wrong", [None, "cat", [], 0, False])
def test_input_is_an_object(server: TestClient, wrong: object) -> None:
    answer = server.post(CREATE, json={"input": wrong})
    assert assert_problem(answer, 422) == "input: must be an object"


@pytest.mark.parametrize("prompt", ["a bird", "a cat and a dog"])
def test_a_prompt_that_names_no_class_is_told_the_classes(server: TestClient, prompt: str) -> None:
    answer = server.post(CREATE, json={"input": QUICK | {"prompt": prompt}})
    assert assert_problem(answer, 422).endswith("cat, dog, 3")


def test_a_model_that_is_not_there_is_not_found(server: TestClient) -> None:
    answer = server.post("/v1/models/local/shoes/predictions", json={"input": QUICK})
    assert assert_problem(answer, 404) == "unknown model 'shoes'; loaded: tiny"


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"{", 400), (b"\xff\xfe", 400), (b"", 422), (b"[1]", 422), (b"null", 422), (b"{}", 422)],
)
def test_a_body_that_says_nothing_is_refused(
    server: TestClient, content: bytes, status: int
) -> None:
    answer = server.post(CREATE, content=content, headers={"content-type": "application/json"})
    assert_problem(answer, status)


def test_bodies_that_are_not_read(server: TestClient) -> None:
    answer = server.post(CREATE, content=b"7", headers={"content-type": "text/plain"})
    assert "application/json" in assert_problem(answer, 415)
    answer = server.post(CREATE, json={"input": QUICK, "webhook": "x" * 100_000})
    assert "65536" in assert_problem(answer, 413)
    assert server.get(CREATE).status_code == 405


def test_before_the_models_are_loaded_it_says_so(tiny_folder: Path) -> None:
    client = TestClient(
        create_app(Settings(models=(str(tiny_folder),))), base_url="http://localhost"
    )  # no lifespan: not loaded
    assert_problem(client.post(CREATE, json={"input": QUICK}), 503)
    assert_problem(client.get(MODEL), 503)


def test_a_model_and_its_version_are_described(server: TestClient) -> None:
    (listed,) = server.get("/models").json()["models"]
    model = server.get(MODEL).json()
    assert (model["owner"], model["name"]) == ("local", "tiny")
    assert model["url"] == f"http://localhost{MODEL}"
    assert "cat, dog, 3" in model["description"]
    version = model["latest_version"]
    assert version["id"] == listed["sha256"]
    assert server.get(f"{MODEL}/versions").json() == {
        "previous": None,
        "next": None,
        "results": [version],
    }
    for name in (listed["sha256"], listed["hash"]):
        assert server.get(f"{MODEL}/versions/{name}").json() == version
    schemas = version["openapi_schema"]["components"]["schemas"]
    assert schemas["Input"]["required"] == ["prompt"]
    assert schemas["Output"]["type"] == "array"
    assert "x-cog-array-type" not in schemas["Output"], "else clients expect it bit by bit"


def test_a_model_or_version_that_is_not_there_is_not_found(server: TestClient) -> None:
    for path in ("/v1/models/local/shoes", "/v1/models/local/shoes/versions"):
        assert assert_problem(server.get(path), 404) == "unknown model 'shoes'; loaded: tiny"
    told = assert_problem(server.get(f"{MODEL}/versions/{'0' * 64}"), 404)
    assert server.get(MODEL).json()["latest_version"]["id"] in told


def test_a_prediction_by_version_is_the_models(server: TestClient) -> None:
    (listed,) = server.get("/models").json()["models"]
    for version, model in (
        (listed["sha256"], "local/tiny"),
        (listed["hash"], "local/tiny"),
        ("me/tiny", "me/tiny"),
        (f"me/tiny:{listed['sha256']}", "me/tiny"),
        (f"me/tiny:{listed['hash']}", "me/tiny"),
    ):
        sent = {"version": version, "input": QUICK}
        answer = server.post("/v1/predictions", json=sent, headers=WAIT)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        assert (body["model"], body["version"]) == (model, listed["sha256"])
        assert files_of(body) == [native(server)]


@pytest.mark.parametrize(
    "version", [None, "", 7, "0" * 64, "tiny", "me/shoes", "me/tiny:" + "0" * 64, "x" * 9000]
)
def test_a_version_that_is_not_there_is_told_which_is(server: TestClient, version: object) -> None:
    answer = server.post("/v1/predictions", json={"version": version, "input": QUICK})
    told = assert_problem(answer, 422)
    assert told.startswith("version: unknown version ")
    (listed,) = server.get("/models").json()["models"]
    assert told.endswith(f"; loaded: local/tiny:{listed['hash']}")
    assert len(told) < 300
    assert_problem(server.post("/v1/predictions", json={"version": "me/tiny"}), 422)


def test_no_prompt_is_told_the_classes(server: TestClient) -> None:
    for wanted in ({}, {"prompt": None}, {"prompt": 7}, {"text": "cat"}):
        told = assert_problem(server.post(CREATE, json={"input": wanted}), 422)
        assert "a text that names one of: cat, dog, 3" in told


def test_the_document_describes_every_answer(server: TestClient) -> None:
    document = server.get("/openapi.json").json()
    by_version = document["paths"]["/v1/predictions"]["post"]
    for example in by_version["requestBody"]["content"]["application/json"]["examples"].values():
        wanted = example["value"]["input"] | {"prompt": "cat"}
        sent = example["value"] | {"version": "local/tiny", "input": wanted}
        assert server.post("/v1/predictions", json=sent).status_code == 201
    operation = document["paths"]["/v1/models/{owner}/{name}/predictions"]["post"]
    assert operation["operationId"] == "replicateCreatePrediction"
    for status, response in operation["responses"].items():
        ((media_type, described),) = response["content"].items()
        name = described["schema"]["$ref"].rpartition("/")[2]
        if status in ("201", "202"):
            assert (media_type, name) == ("application/json", "Prediction")
        else:
            assert (media_type, name) == ("application/problem+json", "Problem")
    assert set(document["components"]["schemas"]["Prediction"]["required"]) >= {"id", "output"}
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    for example in examples.values():
        wanted = example["value"]["input"] | {"prompt": "cat"}  # the documentation speaks of digits
        assert server.post(CREATE, json={"input": wanted}).status_code == 201
