"""POST /generate and its neighbours, over HTTP, with a real engine and a tiny model."""

import base64
import io
import json
import shutil
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.engine.job import MAX_SEED
from app.main import create_app
from app.settings import Settings
from models.pipeline import LatentDiffusion, to_uint8
from models.sampling import SAMPLERS
from tests.conftest import serving
from tests.e2e import live

CHEAP = {"class": "cat", "steps": 2, "seed": 1}


def open_png(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def pixels(content: bytes) -> bytes:
    return open_png(content).tobytes()


def test_one_image_is_a_png_of_the_plain_loop(server: TestClient, tiny: LatentDiffusion) -> None:
    body = {"class": "dog", "steps": 7, "guidance_scale": 2.5, "eta": 0.4, "seed": 123}
    answer = server.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["x-seed"] == "123"
    expected = tiny.sample(["dog"], [123], steps=7, guidance_scale=2.5, eta=0.4)
    assert pixels(answer.content) == to_uint8(expected).numpy().tobytes()


def test_the_png_says_how_it_was_made(server: TestClient) -> None:
    info = server.get("/models").json()["models"][0]
    image = open_png(server.post("/generate", json=CHEAP | {"guidance_scale": 2}).content)
    assert image.info["parameters"] == (
        "cat\nSteps: 2, Sampler: DDIM, CFG scale: 2, Seed: 1, Size: 16x16, "
        f"Model hash: {info['hash']}, Model: tiny, Eta: 0"
    )


def test_defaults_are_the_models(server: TestClient) -> None:
    least = server.post("/generate", json={"seed": 4})
    full = {"class": None, "steps": 50, "guidance_scale": 1.5, "eta": 0, "seed": 4, "n": 1}
    full |= {"guidance_interval": [0, 1], "priority": 0, "timeout": 300}
    assert least.content == server.post("/generate", json=full | {"model": "tiny"}).content


def test_a_seed_that_is_not_given_is_random_and_told(server: TestClient) -> None:
    body = {"class": "cat", "steps": 1}
    first, second = (server.post("/generate", json=body) for _ in range(2))
    assert first.headers["x-seed"] != second.headers["x-seed"]
    again = server.post("/generate", json=body | {"seed": int(first.headers["x-seed"])})
    assert again.content == first.content


def test_several_images_are_json_with_seeds_that_count_up(server: TestClient) -> None:
    answer = server.post("/generate", json=CHEAP | {"n": 3}).json()
    assert answer["class"] == "cat"
    assert [image["seed"] for image in answer["images"]] == [1, 2, 3]
    for image in answer["images"]:
        alone = server.post("/generate", json=CHEAP | {"seed": image["seed"]})
        assert base64.b64decode(image["data"]) == alone.content


def test_the_last_seed_is_followed_by_zero(server: TestClient) -> None:
    answer = server.post("/generate", json=CHEAP | {"seed": MAX_SEED, "n": 2}).json()
    assert [image["seed"] for image in answer["images"]] == [MAX_SEED, 0]


@pytest.mark.parametrize(
    ("accept", "n", "media_type"),
    [
        ("*/*", 1, "image/png"),
        ("image/*", 1, "image/png"),
        ("application/json", 1, "application/json"),
        ("image/webp, application/json;q=0.5, image/png;q=0.9", 1, "image/webp"),
        ("image/avif, application/json;q=0.5, image/jpeg;q=0.9", 1, "image/jpeg"),
        ("application/json, text/plain, */*", 1, "application/json"),
        ("image/jpg", 1, "image/jpeg"),
        ("*/*", 2, "application/json"),
        ("application/zip", 1, "application/zip"),
        ("application/zip, */*;q=0.1", 2, "application/zip"),
    ],
)
def test_accept_chooses_the_format(
    server: TestClient, accept: str, n: int, media_type: str
) -> None:
    answer = server.post("/generate", json=CHEAP | {"n": n}, headers={"accept": accept})
    assert answer.headers["content-type"] == media_type


def test_a_zip_holds_the_files(server: TestClient) -> None:
    headers = {"accept": "application/zip"}
    answer = server.post("/generate", json=CHEAP | {"n": 2}, headers=headers)
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["1.png", "2.png"]
        assert archive.read("2.png") == server.post("/generate", json=CHEAP | {"seed": 2}).content


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """RFC 9457, and nothing but."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"] == body["error"]
    return body


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("class", "bird", "unknown class 'bird'; allowed: cat, dog, 3, an index from 0 to 2"),
        ("class", 3, "unknown class 3; allowed: cat"),
        ("class", 1.5, "must be a string or an integer or null"),
        ("class", ["cat"], "must be a string or an integer or null"),
        *(
            ("steps", wrong, "must be an integer from 1 to 1000")
            for wrong in (0, 1001, -1, "50", 2.5, True, None)
        ),
        *(
            ("seed", wrong, f"must be an integer from 0 to {MAX_SEED} or null")
            for wrong in (-1, 2**63, 10**400, 1.5)
        ),
        *(
            ("guidance_scale", wrong, "must be a number from 0 to 30 or null")
            for wrong in (-0.1, 30.5, float("nan"), float("inf"), "2")
        ),
        *(("eta", wrong, "must be a number from 0 to 1") for wrong in (1.1, float("nan"), None)),
        *(("n", wrong, "must be an integer from 1 to 16") for wrong in (0, 17)),
        ("model", 3, "must be a string or null"),
        ("priority", 11, "must be an integer from -10 to 10"),
        *(
            ("timeout", wrong, "must be a number above 0 and up to 3600 or null")
            for wrong in (0, -1, 3601, float("nan"))
        ),
        *(
            ("guidance_interval", wrong, "must be a list of 2 numbers from 0 to 1")
            for wrong in ([0], [0, 1, 1], [0, 1.5], "0-1", 0.5)
        ),
        (
            "a/b~c",
            5,
            "unknown field; allowed: class, steps, sampler, spacing, guidance_scale",
        ),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    server: TestClient, field: str, value: object, allowed: str
) -> None:
    content = json.dumps(CHEAP | {field: value})
    answer = server.post("/generate", content=content, headers={"content-type": "application/json"})
    body = assert_problem(answer, 422)
    (error,) = body["errors"]
    assert error["pointer"] == "#/" + field.replace("~", "~0").replace("/", "~1")
    assert allowed in error["detail"]
    assert field in body["detail"]


@pytest.mark.parametrize("field", ["prompt", "negative_prompt", "Prompt", "inputs", "text"])
def test_a_prompt_is_told_the_classes(server: TestClient, field: str) -> None:
    """Whoever sends one to a model that takes classes learns how to ask, from a form or query too.

    A model that does not exist is told of first, if the field does exist.
    """
    known = "prompt" in field
    told = (
        f"{field}: {'' if known else 'unknown field; '}tiny takes 'class' instead of a prompt; "
        "class: cat, dog, 3, an index from 0 to 2, or null"
    )
    form = {"content-type": "application/x-www-form-urlencoded"}
    answers = [
        server.post("/generate", content=f"{field}=a+cat", headers=form),
        server.get("/generate", params={field: "a cat", "seed": 1}),
    ]
    if field != "inputs":  # which is Hugging Face's
        answers.append(server.post("/generate", json={field: "a cat", "model": "tiny"}))
    if not known and field != "inputs":
        answers.append(server.post("/generate", json={field: "a cat", "model": "shoes"}))
        answers.append(server.post("/generate", json={field: "a cat", "model": ["tiny"]}))
    for answer in answers:
        body = assert_problem(answer, 422)
        assert told in body["detail"]
        assert len(answer.content) < 1_500


def test_every_wrong_field_is_named_at_once(server: TestClient) -> None:
    body = assert_problem(server.post("/generate", json={"steps": 0, "n": 99}), 422)
    assert {error["pointer"] for error in body["errors"]} == {"#/steps", "#/n"}


def test_an_answer_stays_short_whatever_was_asked(server: TestClient) -> None:
    body = assert_problem(server.post("/generate", json=dict.fromkeys(map(str, range(900)))), 422)
    assert len(body["errors"]) == 16
    assert body["detail"].endswith("; and 884 more")
    for field in ("class", "model", "x" * 9_000):
        answer = server.post("/generate", json={field: "y" * 9_000})
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 1_000, field
    answer = server.post("/generate", json=CHEAP, headers={"accept": "text/" + "z" * 9_000})
    assert answer.status_code == 406
    assert len(answer.content) < 1_000


def test_a_body_of_another_type_is_told_what_to_send(server: TestClient) -> None:
    answer = server.post("/generate", content=b"class=7", headers={"content-type": "text/plain"})
    assert assert_problem(answer, 415)["detail"] == (
        "content-type 'text/plain' is not supported; allowed: application/json, "
        "application/x-www-form-urlencoded, multipart/form-data"
    )


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1, 2]", b"null", b'"seven"'])
def test_a_body_that_is_no_object_is_refused(server: TestClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = server.post("/generate", content=content, headers=headers)
    assert_problem(answer, 422 if content in (b"", b"[1, 2]", b"null", b'"seven"') else 400)


def test_deeply_nested_json_is_refused(server: TestClient) -> None:
    content = b'{"class":' + b"[" * 100_000
    headers = {"content-type": "application/json"}
    answer = server.post("/generate", content=content, headers=headers)
    assert 400 <= assert_problem(answer, answer.status_code)["status"] < 500


def test_a_body_of_100_megabytes_is_refused(server: TestClient) -> None:
    headers = {"content-type": "application/json"}
    answer = server.post("/generate", content=b" " * 100_000_000, headers=headers)
    assert_problem(answer, 413)


def test_other_things_that_are_not_there(server: TestClient) -> None:
    body = assert_problem(server.post("/generate", json=CHEAP | {"model": "shoes"}), 404)
    assert body["detail"] == "unknown model 'shoes'; loaded: tiny"
    assert_problem(server.get("/nowhere"), 404)
    assert_problem(server.put("/generate"), 405)
    answer = server.post("/generate", json=CHEAP, headers={"accept": "text/html"})
    assert "image/png, image/webp, image/jpeg" in assert_problem(answer, 406)["detail"]


@pytest.mark.server
def test_two_models_are_asked_by_name(tiny_folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    index = json.loads((other / "model_index.json").read_text())
    index["id2label"] = {"0": "oak", "1": "elm", "2": "fir"}
    (other / "model_index.json").write_text(json.dumps(index))
    settings = Settings(models=(str(tiny_folder), str(other)), slots=4, backend="eager")
    with serving(settings) as client:
        listed = client.get("/models").json()["models"]
        assert [(model["name"], model["default"]) for model in listed] == [
            ("tiny", True),
            ("other", False),
        ]
        tree = client.post("/generate", json={"class": "elm", "model": "other", "steps": 2})
        assert open_png(tree.content).info["parameters"].startswith("elm\n")
        body = assert_problem(client.post("/generate", json={"class": "elm"}), 422)
        assert "cat, dog, 3" in body["detail"], "the first is the default"


@pytest.mark.server
def test_a_full_queue_is_429_with_retry_after(tiny_folder: Path) -> None:
    settings = Settings(models=(str(tiny_folder),), max_jobs=1, backend="eager")
    with serving(settings) as client, ThreadPoolExecutor(1) as pool:
        engine = client.app.state.engine  # type: ignore[attr-defined]
        running = pool.submit(client.post, "/generate", json=CHEAP | {"n": 2, "steps": 100})
        while not engine.jobs:
            time.sleep(0.001)
        answer = client.post("/generate", json=CHEAP)
        assert_problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 120
        assert running.result().status_code == 200
        assert client.post("/generate", json=CHEAP).status_code == 200


def test_a_deadline_that_cannot_be_met_is_refused(server: TestClient) -> None:
    long = CHEAP | {"steps": 1000, "n": 16, "guidance_scale": 3, "timeout": 0.01}
    body = assert_problem(server.post("/generate", json=long), 422)
    assert body["detail"].startswith("timeout: 0.01 s is too short; the request takes about ")
    assert body["detail"].endswith(" s alone")
    assert server.get("/engine").json()["jobs"] == 0


def test_equal_requests_are_one(server: TestClient) -> None:
    before = server.get("/engine").json()
    body = CHEAP | {"steps": 300, "seed": 77}
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(server.post, "/generate", json=body) for _ in range(4)]
        contents = {answer.result().content for answer in answers}
    assert len(contents) == 1
    # The worker reports its rows after the answer.
    live.wait_until(lambda: server.get("/engine").json()["rows"] - before["rows"] == 600)
    assert server.get("/engine").json()["shared"] - before["shared"] == 3


def test_a_guidance_interval_guides_a_part(server: TestClient, tiny: LatentDiffusion) -> None:
    body = {"class": "dog", "steps": 10, "guidance_scale": 5, "guidance_interval": [0.2, 0.7]}
    answer = server.post("/generate", json=body | {"seed": 3})
    expected = tiny.sample(["dog"], [3], steps=10, guidance_scale=5.0, guidance_interval=(0.2, 0.7))
    assert pixels(answer.content) == to_uint8(expected).numpy().tobytes()
    text = open_png(answer.content).info["parameters"]
    assert text.endswith("Eta: 0, Guidance interval: 0.2-0.7")
    body = assert_problem(
        server.post("/generate", json=body | {"guidance_interval": [0.7, 0.2]}), 422
    )
    assert body["detail"] == "guidance_interval: must begin before it ends"


def test_where_nobody_loads_models_it_says_so(tiny_folder: Path) -> None:
    client = TestClient(
        create_app(Settings(models=(str(tiny_folder),))), base_url="http://localhost"
    )  # no lifespan: not loaded
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert client.get("/engine").json()["ready"] is False
    for body in ({}, {"model": "tiny"}):
        assert_problem(client.post("/generate", json=body), 503)


def test_models_says_what_a_request_may_ask(server: TestClient) -> None:
    (model,) = server.get("/models").json()["models"]
    assert model.pop("sha256").startswith(model.pop("hash"))
    assert model.pop("memory_bytes") > 10**7
    assert model.pop("idle_seconds") >= 0
    assert (model.pop("state"), model.pop("stays")) == ("loaded", True)
    samplers = {sampler["name"]: sampler for sampler in model.pop("samplers")}
    assert list(samplers) == list(SAMPLERS)
    assert samplers["heun"] == {
        "name": "heun",
        "title": "Heun",
        "spacings": ["default", "karras", "exponential"],
        "eta": False,
        "evaluations_per_step": 2,
    }
    execution = model.pop("execution")
    ticks = execution.pop("ticks")
    assert execution.pop("rows") in [tick["rows"] for tick in ticks]
    assert execution == {"backend": "eager", "device": "cpu", "dtype": "float32", "exact": True}
    for tick in ticks:
        assert tick["rows_per_second"] == pytest.approx(
            tick["rows"] / tick["milliseconds"] * 1000, rel=0.01
        )
    assert model == {
        "name": "tiny",
        "default": True,
        "classes": ["cat", "dog", "3"],
        "class_required": False,
        "class_sheet": False,
        "takes": ["class"],
        "prompts": None,
        "width": 16,
        "height": 16,
        "sizes": None,
        "limits": {
            "steps": 1000,
            "n": 16,
            "pixels": 2048**2,
            "evaluations": 64000,
            "streams": 512,
            "seed": MAX_SEED,
            "guidance_scale": 30.0,
        },
        "defaults": {
            "steps": 50,
            "sampler": "ddim",
            "spacing": "default",
            "guidance_scale": 1.5,
            "eta": 0.0,
            "n": 1,
        },
    }


def test_probes_and_documentation(server: TestClient) -> None:
    assert server.get("/livez").json() == {"status": "alive"}
    assert server.get("/readyz").json() == {"status": "ready"}
    assert "text/html" in server.get("/").headers["content-type"]
    schema = server.get("/openapi.json").json()

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            yield from (ref for key, ref in value.items() if key == "$ref")
            yield from (ref for part in value.values() for ref in references(part))
        elif isinstance(value, list):
            yield from (ref for part in value for ref in references(part))

    for reference in references(schema):
        part = schema
        for name in reference.removeprefix("#/").split("/"):
            part = part[name]
    examples = schema["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]
    for example in examples["examples"].values():
        wanted = {**example["value"], "steps": 1}
        if wanted.get("class") in ("7", "0"):  # the documentation speaks of digits
            wanted["class"] = "cat"
        assert server.post("/generate", json=wanted).status_code == 200
