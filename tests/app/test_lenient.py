"""Dialects are as lenient as the services that they imitate; the native API is not.

n8n, Dify and web forms send numbers and booleans as text, and empty text for what is not filled in.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine.job import MAX_SEED

pytestmark = pytest.mark.slow  # each draws, in every dialect


@dataclass(frozen=True)
class Dialect:
    """Where requests go, what its fields are called, and where a body has them."""

    path: str
    body: Callable[[dict[str, Any]], dict[str, Any]]
    steps: str
    scale: str
    image: Callable[[httpx.Response], bytes]
    n: str = ""  # how many images, where it can be said
    optional: dict[str, str] = field(default_factory=dict)


def text(answer: Any) -> bytes:
    return base64.b64decode(str(answer).rpartition(",")[2])


DIALECTS = {
    "openai": Dialect(
        "/v1/images/generations",
        lambda wanted: {"prompt": "cat"} | wanted,
        "num_inference_steps",
        "guidance_scale",
        lambda answer: text(answer.json()["data"][0]["b64_json"]),
        "n",
        dict.fromkeys(
            [
                *("model", "response_format", "output_format", "output_compression", "stream"),
                *("partial_images", "steps", "size", "quality", "background", "style", "user"),
            ],
            "",
        ),
    ),
    "huggingface": Dialect(
        "/models/tiny",
        lambda wanted: {"inputs": "cat", "parameters": wanted},
        "num_inference_steps",
        "guidance_scale",
        lambda answer: answer.content,
        optional={"negative_prompt": "", "width": "", "scheduler": "", "eta": " "},
    ),
    "huggingface at /generate": Dialect(
        "/generate",
        lambda wanted: {"inputs": "cat", "parameters": wanted, "model": ""},
        "num_inference_steps",
        "guidance_scale",
        lambda answer: answer.content,
        optional={"eta": ""},
    ),
    "automatic1111": Dialect(
        "/sdapi/v1/txt2img",
        lambda wanted: {"prompt": "cat"} | wanted,
        "steps",
        "cfg_scale",
        lambda answer: text(answer.json()["images"][0]),
        "batch_size",
        dict.fromkeys(
            ["negative_prompt", "n_iter", "eta", "send_images", "override_settings", "width"], ""
        ),
    ),
    "replicate": Dialect(
        "/v1/models/local/tiny/predictions",
        lambda wanted: {"input": {"prompt": "cat"} | wanted},
        "num_inference_steps",
        "guidance_scale",
        lambda answer: text(answer.json()["output"][0]),
        "num_outputs",
        dict.fromkeys(["guidance", "output_format", "output_quality", "aspect_ratio"], ""),
    ),
}


@pytest.fixture(params=DIALECTS)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return DIALECTS[request.param]


def ask(server: TestClient, dialect: Dialect, **wanted: Any) -> httpx.Response:
    body = dialect.body({dialect.steps: 2, "seed": 1} | wanted)
    headers = {"accept": "*/*", "prefer": "wait"}
    answer = server.post(dialect.path, json=body, headers=headers)
    assert answer.is_success, answer.text
    return answer


def native(server: TestClient, accept: str = "image/png", **wanted: Any) -> bytes:
    body = {"class": "cat", "steps": 2, "seed": 1} | wanted
    return server.post("/generate", json=body, headers={"accept": accept}).content


def test_numbers_may_be_text(server: TestClient, dialect: Dialect) -> None:
    more: dict[str, Any] = {dialect.n: "1"} if dialect.n else {}
    more |= {dialect.steps: "3", dialect.scale: "7.5", "seed": "5"}
    expected = native(server, steps=3, guidance_scale=7.5, seed=5)
    assert dialect.image(ask(server, dialect, **more)) == expected
    more |= {dialect.steps: " 3.0 ", dialect.scale: " 7.50", "seed": "5.0"}
    assert dialect.image(ask(server, dialect, **more)) == expected


def test_the_largest_seed_is_exact_as_text(server: TestClient, dialect: Dialect) -> None:
    answer = ask(server, dialect, seed=str(MAX_SEED))
    assert answer.headers["x-seed"] == str(MAX_SEED)


def test_empty_text_is_absent(server: TestClient, dialect: Dialect) -> None:
    more = dialect.optional | {dialect.scale: ""} | ({dialect.n: ""} if dialect.n else {})
    assert dialect.image(ask(server, dialect, **more)) == native(server)
    answer = ask(server, dialect, **{dialect.steps: "", "seed": ""})
    seed = int(answer.headers["x-seed"])
    assert dialect.image(answer) == native(server, steps=50, seed=seed)


@pytest.mark.parametrize("seed", [-1, "-1", -1.0, None, ""])
def test_a_seed_of_minus_one_is_random(server: TestClient, dialect: Dialect, seed: object) -> None:
    seeds = {ask(server, dialect, seed=seed).headers["x-seed"] for _ in range(2)}
    assert len(seeds) == 2
    assert all(0 <= int(one) < 2**32 for one in seeds)


def test_guidance_goes_as_far_as_the_web_uis(server: TestClient, dialect: Dialect) -> None:
    for scale in (30, "30"):
        answer = ask(server, dialect, **{dialect.scale: scale})
        assert dialect.image(answer) == native(server, guidance_scale=30)


@pytest.mark.parametrize("value", ["many", True, [1], {"of": 1}])
def test_what_is_no_number_is_told_what_is_in_words(
    server: TestClient, dialect: Dialect, value: object
) -> None:
    body = dialect.body({dialect.steps: value})
    answer = server.post(dialect.path, json=body)
    assert answer.status_code in (400, 422)
    assert f"{dialect.steps}: Input should be a" in answer.text
    assert "(allowed: an integer from 1 to 1000 or null)" in answer.text


@pytest.mark.parametrize(("given", "streamed"), [("true", True), ("False", False), (0, False)])
def test_booleans_may_be_text(server: TestClient, given: object, streamed: bool) -> None:
    answer = ask(server, DIALECTS["openai"], stream=given)
    assert answer.headers["content-type"].startswith("text/event-stream") is streamed
    answer = ask(server, DIALECTS["automatic1111"], send_images=given)
    assert bool(answer.json()["images"]) is streamed


@pytest.mark.parametrize("name", ["jpg", "jpeg", "JPEG", "image/jpg", "image/jpeg"])
def test_jpg_is_jpeg_by_any_of_its_names(server: TestClient, name: str) -> None:
    expected = native(server, "image/jpeg")
    for kind in ("openai", "replicate"):
        dialect = DIALECTS[kind]
        answer = ask(server, dialect, output_format=name)
        assert dialect.image(answer) == expected
        assert "data:image/jpg" not in answer.text
    if "/" in name:
        answer = server.post(
            "/generate", json={"class": "cat", "steps": 2, "seed": 1}, headers={"accept": name}
        )
        assert (answer.content, answer.headers["content-type"]) == (expected, "image/jpeg")
    else:
        path = server.get("/generate?class=cat&steps=2&seed=1").headers["content-location"]
        answer = server.get(path.replace(".png", f".{name}"))
        assert (answer.content, answer.headers["content-type"]) == (expected, "image/jpeg")


def test_a_checkpoint_is_found_by_all_that_the_web_ui_lists(server: TestClient) -> None:
    (listed,) = server.get("/sdapi/v1/sd-models").json()
    options = server.get("/sdapi/v1/options").json()
    dialect, expected = DIALECTS["automatic1111"], native(server)
    for name in (
        *(listed[key] for key in ("title", "model_name", "hash", "sha256", "filename")),
        *options.values(),
        listed["hash"].upper(),
        f"[{listed['hash']}]",
        "tiny [0123456789]",  # of an older checkpoint: the web UI goes by the name
        "tiny.safetensors [0123456789]",
        "tiny.safetensors",
        " ",
    ):
        if name != "png":
            answer = ask(server, dialect, override_settings={"sd_model_checkpoint": name})
            assert dialect.image(answer) == expected
    for name in ("shoes", "shoes [0123456789]", "0123456789", "[]", "tin", "x" * 9000):
        body = {"prompt": "cat", "override_settings": {"sd_model_checkpoint": name}}
        answer = server.post(dialect.path, json=body)
        assert answer.status_code == 404, name
        assert len(answer.content) < 400


def test_the_native_api_stays_strict(server: TestClient) -> None:
    for wrong in (
        {"steps": "20"},
        {"seed": -1},
        {"seed": ""},
        {"guidance_scale": "7.5"},
        {"model": ""},
        {"n": True},
    ):
        answer = server.post("/generate", json={"class": "cat"} | wrong)
        assert 400 <= answer.status_code < 500, wrong
