"""Requests to a model that takes prompts, in every API, over an engine without a network.

An image's grey is made of all that fixes its pixels (`tests.fakes.grey`), so a prompt that is lost
on its way makes another image.
"""

import base64
import io
import json
import zipfile
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from app.engine.job import SamplingParams
from app.files.formats import FORMATS, open_image
from app.files.ids import MAX_ID
from app.files.parameters import describe
from app.http.limits import TargetLimit
from models.conditioning import MAX_PROMPT, Condition, Prompt
from tests.engine import served
from tests.fakes import INFO, TEXT, FakeRunner, grey

ASKED = {"prompt": "a cat, oil", "negative_prompt": "blurry, low", "clip_skip": 1}
PROMPT = Prompt("a cat, oil", "blurry, low", 1)
LONG = "one two three four five six seven eight"  # two words more than fit
TEXTS = [
    "Eine schläfrige Katze auf der Fensterbank",
    "一只睡在窗台上的猫",
    "\N{CAT FACE}\N{ZERO WIDTH JOINER}\N{GRINNING FACE} e\N{COMBINING ACUTE ACCENT}",
    '  "quoted"\\ , (cat:1.2), <lora:x:1>\n\nSteps: 20, Seed: 5 ',
    "a\nNegative prompt: b\n\\Negative prompt: c",
    "Negative prompt: at once\r\n\t",
    "x" * MAX_PROMPT,
    "\N{GRINNING FACE}" * MAX_PROMPT,
]


@pytest.fixture(scope="module")
def server() -> Iterator[TestClient]:
    with served(FakeRunner(TEXT)) as (http, _):
        yield http


def params(prompt: Prompt = PROMPT, **more: Any) -> SamplingParams:
    wanted: dict[str, Any] = {
        "model": "text",
        "condition": Condition(prompt=prompt),
        "steps": 2,
        "guidance_scale": 7.5,
        "guidance_interval": (0.0, 1.0),
        "eta": 0.0,
        "seed": 1,
        "n": 1,
        "width": 8,
        "height": 8,
    }
    return SamplingParams(**wanted | more)


def pixels(content: bytes) -> bytes:
    return open_image(content).image.tobytes()


def expected(wanted: SamplingParams) -> bytes:
    return grey(wanted, wanted.seed).data


def generate(server: TestClient, **wanted: Any) -> httpx.Response:
    answer = server.post("/generate", json={"steps": 2, "seed": 1} | wanted)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_prompt_reaches_the_engine_by_json_form_and_address(server: TestClient) -> None:
    body = ASKED | {"steps": 2, "seed": 1}
    for answer in (
        server.post("/generate", json=body),
        server.post("/generate", data=body),
        server.get("/generate", params=body),
    ):
        assert pixels(answer.content) == expected(params()), answer.text
        assert "warning" not in answer.headers
        told = json.loads(answer.headers["x-generation-parameters"])
        assert {name: told[name] for name in ASKED} == ASKED
        assert pixels(server.post("/generate", json=told).content) == expected(params())


def test_what_is_left_out_is_empty_and_null_is_as_good(server: TestClient) -> None:
    for body in ({}, {"prompt": None, "class": None, "negative_prompt": None, "clip_skip": None}):
        assert pixels(generate(server, **body).content) == expected(params(Prompt("")))


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_is_left_as_it_is(server: TestClient, text: str) -> None:
    """In the answer, and in every format of file, which says itself what was asked."""
    wanted = params(Prompt(text, text))
    for kind in FORMATS:
        answer = server.post(
            "/generate",
            json={"prompt": text, "negative_prompt": text, "steps": 2, "seed": 1},
            headers={"accept": kind.media_type},
        )
        opened = open_image(answer.content)
        assert opened.parameters == describe(wanted, 0, TEXT)
    told = server.post(
        "/generate",
        json={"prompt": text, "negative_prompt": text, "steps": 2, "seed": 1},
        headers={"accept": "application/json"},
    ).json()
    assert (told["prompt"], told["negative_prompt"]) == (text, text)
    assert pixels(base64.b64decode(told["images"][0]["data"])) == expected(wanted)


def test_a_form_may_have_bytes_that_are_not_escaped(server: TestClient) -> None:
    """As `curl -d` sends them."""
    form = {"content-type": "application/x-www-form-urlencoded"}
    content = "prompt=一只猫&steps=2&seed=1".encode()
    answer = server.post("/generate", content=content, headers=form)
    assert pixels(answer.content) == expected(params(Prompt("一只猫")))


def test_bytes_that_are_no_text_are_refused_and_not_replaced(server: TestClient) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}
    for broken in ("%FF%FE", "%ED%A0%80", "a%C3"):  # the second is half a surrogate pair
        answers = [
            server.get(f"/generate?steps=2&prompt={broken}"),
            server.get(f"/generate?steps=2&{broken}=1"),
            server.head(f"/generate?steps=2&prompt={broken}"),
            server.post("/generate", content=f"steps=2&prompt={broken}", headers=form),
        ]
        assert [answer.status_code for answer in answers] == [400] * 4
        assert answers[0].json()["detail"] == "the query cannot be read: it is not UTF-8"
    assert server.get("/generate?steps=2&prompt=%EF%BF%BD").status_code == 200  # U+FFFD itself


def test_a_file_says_it_as_the_web_ui_does(server: TestClient) -> None:
    opened = open_image(generate(server, **ASKED).content)
    assert opened.parameters == (
        "a cat, oil\nNegative prompt: blurry, low\nSteps: 2, Sampler: DDIM, CFG scale: 7.5, "
        "Seed: 1, Size: 8x8, Model hash: 1212121212, Model: text, Eta: 0, Clip skip: 2"
    )


def test_a_negative_prompt_without_guidance_changes_nothing(server: TestClient) -> None:
    bare = params(Prompt("a cat", clip_skip=1), guidance_scale=1.0)
    for more in ({"guidance_scale": 1}, {"guidance_interval": [0.6, 0.6]}):
        answer = generate(server, **ASKED | {"prompt": "a cat"} | more)
        assert pixels(answer.content) == expected(bare)


@pytest.mark.parametrize(
    ("wanted", "field", "told"),
    [
        ({"class": "cat"}, "class", "text takes 'prompt' instead of a class"),
        ({"class": 0, "prompt": "a cat"}, "class", "text takes 'prompt' instead of a class"),
        ({"prompt": "x" * (MAX_PROMPT + 1)}, "prompt", "at most 4096 characters"),
        ({"negative_prompt": "x" * (MAX_PROMPT + 1)}, "negative_prompt", "at most 4096 characters"),
        ({"prompt": "a\0b"}, "prompt", "none of them NUL"),
        ({"negative_prompt": "\0"}, "negative_prompt", "none of them NUL"),
        ({"prompt": ["a cat"]}, "prompt", "a string of at most"),
        ({"prompt": 7}, "prompt", "a string of at most"),
        ({"clip_skip": 3}, "clip_skip", "at most 2 of the layers of model 'text'"),
        ({"clip_skip": -1}, "clip_skip", "an integer from 0"),
        ({"clip_skip": "1"}, "clip_skip", "an integer from 0"),
        ({"text": "a cat"}, "text", "unknown field; text takes 'prompt'"),
        ({"width": 12}, "width", "12x8 is not a size of this model"),
        ({"width": 32, "height": 24}, "width", "512 pixels in all at most"),
    ],
)
def test_what_is_wrong_is_told(
    server: TestClient, wanted: dict[str, Any], field: str, told: str
) -> None:
    answer = server.post("/generate", json=wanted)
    assert answer.status_code == 422, answer.text
    (error,) = answer.json()["errors"]
    assert error["pointer"] == f"#/{field}"
    assert told in error["detail"]
    assert len(answer.content) < 1_500


@pytest.mark.parametrize("text", [r"\ud800", r"a\udfff", r"\udc00\ud800"])
def test_half_a_surrogate_pair_is_no_text(server: TestClient, text: str) -> None:
    for path, body in (
        ("/generate", f'{{"prompt": "{text}"}}'),
        ("/models/text", f'{{"inputs": "{text}"}}'),
        ("/v1/images/generations", f'{{"prompt": "{text}"}}'),
        ("/sdapi/v1/txt2img", f'{{"prompt": "a", "negative_prompt": "{text}"}}'),
    ):
        answer = server.post(path, content=body, headers={"content-type": "application/json"})
        assert 400 <= answer.status_code < 500, path


def test_a_model_that_takes_classes_refuses_each_field_of_prompts() -> None:
    with served(FakeRunner(INFO)) as (http, _):
        for field, value in ASKED.items():
            answer = http.post("/generate", json={"class": "a", field: value})
            assert answer.status_code == 422
            detail = answer.json()["detail"]
            assert detail.startswith(
                f"{field}: fake takes 'class' instead of a prompt; class: a, b"
            )


def test_a_prompt_that_was_cut_is_told(server: TestClient) -> None:
    told = "cut after 6 tokens; 2 more did not fit"
    assert generate(server, prompt=LONG).headers["warning"] == f'299 - "prompt: {told}"'
    both = generate(server, prompt=LONG, negative_prompt=LONG + " nine", n=2)
    assert both.headers["warning"] == (
        f'299 - "prompt: {told}", 299 - "negative_prompt: cut after 6 tokens; 3 more did not fit"'
    )
    events = server.post(
        "/generate", json={"prompt": LONG}, headers={"accept": "text/event-stream"}
    )
    last = json.loads(events.text.strip().rpartition("data: ")[2])
    assert last["warnings"] == [f"prompt: {told}"]
    exposed = server.get("/models", headers={"origin": "http://localhost"}).headers
    assert "Warning" in exposed.get("access-control-expose-headers", "Warning")


def test_cut_prompts_are_told_in_every_dialect(server: TestClient) -> None:
    told = '299 - "prompt: cut after 6 tokens; 2 more did not fit"'
    answers = [
        server.post("/models/text", json={"inputs": LONG}),
        server.post("/v1/images/generations", json={"prompt": LONG}),
        server.post("/sdapi/v1/txt2img", json={"prompt": LONG}),
        server.post(
            "/v1/models/local/text/predictions",
            json={"input": {"prompt": LONG}},
            headers={"prefer": "wait"},
        ),
    ]
    assert [answer.headers["warning"] for answer in answers] == [told] * 4
    assert answers[-1].json()["logs"] in told
    events = server.post("/v1/images/generations", json={"prompt": LONG, "stream": True})
    last = json.loads(events.text.strip().rpartition("data: ")[2])
    assert [f'299 - "{warning}"' for warning in last["warnings"]] == [told]


def test_an_id_holds_prompts(server: TestClient) -> None:
    answer = server.post(
        "/generate", json=ASKED | {"n": 2, "steps": 2}, headers={"accept": "application/json"}
    )
    for image in answer.json()["images"]:
        again = server.get(image["url"])
        assert again.content == base64.b64decode(image["data"])
        assert again.headers["x-image-id"] == image["id"]


def test_an_id_that_is_too_long_is_left_out_and_says_so(server: TestClient) -> None:
    text = "cat " * 300
    answer = generate(server, prompt=text)
    assert "x-image-id" not in answer.headers
    assert "content-location" not in answer.headers
    assert "too long for X-Image-Id" in answer.headers["warning"]
    assert pixels(answer.content) == expected(params(Prompt(text)))
    body = server.post(
        "/generate", json={"prompt": text, "n": 2}, headers={"accept": "application/json"}
    ).json()
    assert [(image["id"], image["url"]) for image in body["images"]] == [(None, None)] * 2
    zipped = server.post(
        "/generate", json={"prompt": text, "n": 2}, headers={"accept": "application/zip"}
    )
    assert len(zipfile.ZipFile(io.BytesIO(zipped.content)).namelist()) == 2


def test_headers_stay_short_whatever_the_prompt(server: TestClient) -> None:
    """A proxy's buffer for all of them may have 4 KiB."""
    for text in ("猫" * MAX_PROMPT, "猫" * 200, "x" * 600, "\N{GRINNING FACE}" * 150):
        for accept in ("image/png", "application/json", "text/event-stream"):
            answer = server.post("/generate", json={"prompt": text}, headers={"accept": accept})
            assert answer.status_code == 200
            size = sum(len(name) + len(value) + 4 for name, value in answer.headers.raw)
            assert size < 4096 - 256, (text[:1], len(text))


def test_an_id_fits_into_an_address(server: TestClient) -> None:
    limit = next(m.kwargs["limit"] for m in server.app.user_middleware if m.cls is TargetLimit)  # type: ignore[attr-defined]
    assert limit > MAX_ID


def test_openai(server: TestClient) -> None:
    body = ASKED | {"size": "16x8", "seed": 1, "num_inference_steps": 2, "quality": "high"}
    answer = server.post("/v1/images/generations", json=body)
    assert answer.status_code == 200, answer.text
    content = base64.b64decode(answer.json()["data"][0]["b64_json"])
    assert pixels(content) == expected(params(width=16))
    assert answer.headers["warning"] == '299 - "quality: ignored"'
    odd = server.post("/v1/images/generations", json=ASKED | {"size": "large", "style": "vivid"})
    assert odd.headers["warning"] == '299 - "style: ignored", 299 - "size: ignored; it is 8x8"'
    for size in ("0x8", "-8x8", "8x-8", "1000000000x8", "8x" + "9" * 5000, "9x8"):
        refused = server.post("/v1/images/generations", json=ASKED | {"size": size})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "size")
        assert len(refused.text) < 400
    quiet = server.post("/v1/images/generations", json=ASKED | {"quality": "auto", "style": None})
    assert "warning" not in quiet.headers
    linked = body | {"response_format": "url"}
    url = server.post("/v1/images/generations", json=linked).json()["data"][0]["url"]
    assert server.get(url).content == content
    long = server.post("/v1/images/generations", json=linked | {"prompt": "cat " * 400})
    assert long.status_code == 400
    assert long.json()["error"]["param"] == "response_format"


def test_automatic1111(server: TestClient) -> None:
    body = {
        "prompt": "a cat, oil",
        "negative_prompt": "blurry, low",
        "steps": 2,
        "seed": 1,
        "cfg_scale": 7.5,
        "width": 8,
        "height": 16,
        "sampler_name": "Euler a",
    }
    wanted = params(height=16, sampler="euler_a")
    for skip in (
        {"clip_skip": 2},
        {"override_settings": {"CLIP_stop_at_last_layers": 2}},
        {"override_settings": {"CLIP_stop_at_last_layers": "2"}, "clip_skip": 3},
    ):
        answer = server.post("/sdapi/v1/txt2img", json=body | skip)
        assert answer.status_code == 200, answer.text
        assert pixels(base64.b64decode(answer.json()["images"][0])) == expected(wanted)
        told = json.loads(answer.json()["info"])
        assert told["clip_skip"] == 2
        assert told["all_negative_prompts"] == ["blurry, low"]
        assert told["infotexts"] == [describe(wanted, 0, TEXT)]
        read = server.post("/sdapi/v1/png-info", json={"image": answer.json()["images"][0]}).json()[
            "parameters"
        ]
        assert (read["Prompt"], read["Negative prompt"]) == ("a cat, oil", "blurry, low")
        assert read["Clip skip"] == "2"
    for none in ({}, {"clip_skip": 1}, {"clip_skip": 0}, {"clip_skip": ""}):
        answer = server.post("/sdapi/v1/txt2img", json=body | none)
        wanted = params(Prompt("a cat, oil", "blurry, low"), height=16, sampler="euler_a")
        assert pixels(base64.b64decode(answer.json()["images"][0])) == expected(wanted)
    for field, wrong in (
        ("clip_skip", {"clip_skip": 4}),
        ("clip_skip", {"clip_skip": "many"}),
        ("override_settings", {"override_settings": {"CLIP_stop_at_last_layers": 4}}),
        ("override_settings", {"override_settings": {"CLIP_stop_at_last_layers": True}}),
        ("negative_prompt", {"negative_prompt": "\0"}),
    ):
        answer = server.post("/sdapi/v1/txt2img", json=body | wrong)
        assert answer.status_code == 422, wrong
        assert answer.json()["detail"].startswith(f"{field}: ")


def test_huggingface(server: TestClient) -> None:
    parameters = {
        "negative_prompt": "blurry, low",
        "clip_skip": 1,
        "width": 16,
        "height": 8,
        "guidance_scale": 7.5,
        "num_inference_steps": 2,
        "scheduler": "EulerDiscreteScheduler",
        "seed": 1,
    }
    body = {"inputs": "a cat, oil", "parameters": parameters}
    for path in ("/models/text", "/generate"):
        answer = server.post(path, json=body)
        assert pixels(answer.content) == expected(params(width=16, sampler="euler"))
    wrong = server.post("/models/text", json=body | {"inputs": "\0"})
    assert wrong.json()["errors"][0]["pointer"] == "#/inputs"
    wrong = server.post("/models/text", json=body | {"parameters": {"negative_prompt": "\0"}})
    assert wrong.json()["errors"][0]["pointer"] == "#/parameters/negative_prompt"


def test_replicate(server: TestClient) -> None:
    given = ASKED | {
        "width": 16,
        "height": 8,
        "num_outputs": 2,
        "scheduler": "K_EULER",
        "guidance_scale": 7.5,
        "num_inference_steps": 2,
        "seed": 1,
    }
    answer = server.post(
        "/v1/models/any/text/predictions", json={"input": given}, headers={"prefer": "wait"}
    ).json()
    assert answer["input"] == given
    for k, uri in enumerate(answer["output"]):
        content = base64.b64decode(uri.partition("base64,")[2])
        assert pixels(content) == expected(params(width=16, sampler="euler", seed=1 + k))
    assert server.get("/v1/models/any/text").json()["description"].endswith(", by prompt")


def test_dialects_pass_over_what_a_model_of_classes_does_not_take() -> None:
    with served(FakeRunner(INFO)) as (http, _):
        for path, body in (
            (
                "/models/fake",
                {"inputs": "a", "parameters": {"negative_prompt": "\0", "clip_skip": 9}},
            ),
            ("/v1/images/generations", {"prompt": "a", "negative_prompt": "b", "clip_skip": 9}),
            ("/sdapi/v1/txt2img", {"prompt": "a", "negative_prompt": "b", "clip_skip": 9}),
            (
                "/v1/models/x/fake/predictions",
                {"input": {"prompt": "a", "negative_prompt": "b", "clip_skip": 9}},
            ),
        ):
            assert http.post(path, json=body).is_success, path


def test_models_says_what_prompts_are_taken(server: TestClient) -> None:
    (model,) = server.get("/models").json()["models"]
    assert model["takes"] == ["prompt", "negative_prompt", "clip_skip"]
    assert model["prompts"] == {"characters": MAX_PROMPT, "tokens": 8, "clip_skip": 2}
    assert model["classes"] == []
    assert model["sizes"] == {"least": 8, "most": 32, "step": 8, "pixels": 512}
    inputs = server.get("/v2/models/text").json()["inputs"]
    assert [each["name"] for each in inputs[:3]] == model["takes"]


def test_the_document_offers_what_the_model_takes(server: TestClient) -> None:
    document = server.get("/openapi.json").json()
    schema = document["components"]["schemas"]["GenerateRequest"]
    assert schema["properties"]["class"]["type"] == "null"
    assert schema["properties"]["prompt"]["anyOf"][0]["maxLength"] == MAX_PROMPT
    assert schema["properties"]["clip_skip"]["anyOf"][0]["maximum"] == 2
    operation = document["paths"]["/generate"]["post"]
    examples = operation["requestBody"]["content"]["application/json"]["examples"]
    assert examples
    for example in (*(each["value"] for each in examples.values()), *schema["examples"]):
        assert "class" not in example
        generate(server, **example | {"steps": 1})
    address = document["paths"]["/images/{name}"]["get"]["parameters"][0]["example"]
    assert server.get(f"/images/{address}").status_code == 200
