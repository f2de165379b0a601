"""A request's sampler and spacing, in the native API and by the names of others."""

import base64
import dataclasses
import itertools
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.client import Wanted
from app.errors import InvalidRequest
from app.schemas.requests import GenerateRequest
from app.schemas.samplers import sampler_of, spacing_of
from models.sampling import SAMPLERS, SPACINGS
from tests.fakes import INFO

ASKED = {"class": "cat", "steps": 3, "seed": 1}
PAIRS = [(sampler.name, spacing) for sampler in SAMPLERS.values() for spacing in sampler.spacings]


def draw(server: TestClient, **more: Any) -> dict[str, Any]:
    answer = server.post("/generate", json=ASKED | more, headers={"accept": "application/json"})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


@pytest.mark.parametrize(
    ("name", "sampler", "spacing"),
    [
        ("DDIM", "ddim", None),
        ("Euler a", "euler_a", None),
        ("DPM++ 2M Karras", "dpmpp_2m", "karras"),
        ("DPM++ 2M SDE Exponential", "dpmpp_2m_sde", "exponential"),
        ("PLMS", "pndm", None),
        ("k_lms", "lms", None),
        ("EulerDiscreteScheduler", "euler", None),
        ("EulerAncestralDiscreteScheduler", "euler_a", None),
        ("DPMSolverMultistepScheduler", "dpmpp_2m", None),
        ("DPMSolverMultistep", "dpmpp_2m", None),
        ("KarrasDPM", "dpmpp_2m", "karras"),
        ("K_EULER_ANCESTRAL", "euler_a", None),
        ("HeunDiscrete", "heun", None),
        ("PNDM", "pndm", None),
        ("UniPCMultistepScheduler", "unipc", None),
        ("LCMScheduler", "lcm", None),
        ("k-euler-a", "euler_a", None),
        ("K-LMS", "lms", None),
        ("KLMS", "lms", None),
        ("Euler A Automatic", "euler_a", None),
        ("DPM++ 2M SGM Uniform", "dpmpp_2m", "default"),
        ("DPM++ 2M Simple", "dpmpp_2m", "default"),
        ("dpmpp_2s_ancestral", "dpmpp_2s_a", None),
        ("DDIM Uniform", "ddim", "default"),
        ("Automatic", None, None),
        ("", None, None),
    ],
)
def test_the_names_of_others_are_known(name: str, sampler: str | None, spacing: str | None) -> None:
    assert sampler_of(name, "sampler") == (sampler, spacing)


def test_our_own_names_and_titles_are_known_whatever_their_case() -> None:
    for sampler, change in itertools.product(SAMPLERS.values(), (str.lower, str.upper)):
        for name in (sampler.name, sampler.title):
            assert sampler_of(change(name), "sampler") == (sampler.name, None)


@pytest.mark.parametrize("name", ["x", "Restart", "DPM++ SDE", "karras", "euler " * 100, "é1"])
def test_another_name_is_told_what_is_allowed(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"unknown sampler .*; allowed: DDIM, Euler, Euler a"):
        sampler_of(name, "sampler")


@pytest.mark.parametrize("name", ["x", "beta", "polyexponential", "karras " * 100])
def test_another_spacing_is_told_what_is_allowed(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"unknown scheduler .*; allowed: Automatic, Uniform"):
        spacing_of(name, "scheduler")


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "spacing"), PAIRS)
def test_an_answer_says_what_was_used_and_its_id_draws_it_again(
    server: TestClient, sampler: str, spacing: str
) -> None:
    body = draw(server, sampler=sampler, spacing=spacing)
    assert (body["sampler"], body["spacing"]) == (sampler, spacing)
    again = server.get(f"/images/{body['images'][0]['id']}.png")
    assert again.content == base64.b64decode(body["images"][0]["data"])


def test_samplers_and_spacings_make_other_pictures(server: TestClient) -> None:
    images = [
        draw(server, sampler=sampler, spacing=spacing, steps=6)["images"][0]["data"]
        for sampler, spacing in PAIRS
    ]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize(
    ("wrong", "field", "detail"),
    [
        ({"sampler": "Euler"}, "sampler", "must be one of ddim, euler"),
        ({"spacing": "uniform"}, "spacing", f"must be one of {', '.join(SPACINGS)}"),
        ({"sampler": "ddim", "spacing": "karras"}, "spacing", "must be 'default' with sampler"),
        ({"sampler": "euler", "eta": 0.5}, "eta", "must be 0 with sampler 'euler'"),
        ({"width": 17}, "width", "17x16 is not a size of this model; allowed: 16x16"),
        ({"height": 8}, "height", "16x8 is not a size of this model; allowed: 16x16"),
    ],
)
def test_what_cannot_be_is_told_by_its_field(
    server: TestClient, wrong: dict[str, Any], field: str, detail: str
) -> None:
    answer = server.post("/generate", json=ASKED | wrong)
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["pointer"] == f"#/{field}"
    assert detail in error["detail"]


def test_the_python_client_knows_every_field_of_a_request() -> None:
    fields = set(GenerateRequest.model_fields)
    assert set(Wanted.__annotations__) == fields


def test_a_sampler_that_the_model_cannot_use_is_refused() -> None:
    info = dataclasses.replace(INFO, samplers=("ddim", "euler"))
    for sampler in info.samplers:
        asked = GenerateRequest.parse({"sampler": sampler, "class": 0})
        assert asked.to_params({"fake": info}).sampler == sampler
    with pytest.raises(
        InvalidRequest, match="sampler: must be one of ddim, euler for model 'fake'"
    ):
        GenerateRequest.parse({"sampler": "heun", "class": 0}).to_params({"fake": info})


def test_every_dialect_means_the_same_sampler(server: TestClient) -> None:
    expected = draw(server, sampler="dpmpp_2m", spacing="karras")["images"][0]["data"]
    prompt = {"prompt": "cat", "seed": 1}
    webui = {**prompt, "steps": 3}
    for named in (
        {"sampler_name": "DPM++ 2M", "scheduler": "Karras"},
        {"sampler_index": "DPM++ 2M", "scheduler": "karras"},
        {"sampler_name": "DPM++ 2M Karras"},
        {"sampler_name": "DPM++ 2M Karras", "scheduler": "normal"},
    ):
        body = server.post("/sdapi/v1/txt2img", json=webui | named).json()
        assert body["images"] == [expected]
    parameters = {"num_inference_steps": 3, "seed": 1, "scheduler": "KarrasDPM"}
    answer = server.post("/models/tiny", json={"inputs": "cat", "parameters": parameters})
    assert base64.b64encode(answer.content).decode() == expected
    body = server.post(
        "/v1/models/local/tiny/predictions",
        json={"input": {"prompt": "cat"} | parameters},
        headers={"prefer": "wait"},
    ).json()
    assert body["output"] == [f"data:image/png;base64,{expected}"]
    openai = {**webui, "sampler": "dpmpp_2m karras", "response_format": "b64_json"}
    body = server.post("/v1/images/generations", json=openai).json()
    assert body["data"][0]["b64_json"] == expected


def test_a_dialect_ignores_what_its_sampler_cannot_use(server: TestClient) -> None:
    """The web UI's clients send eta and a scheduler with whatever sampler there is."""
    asked = {"prompt": "cat", "seed": 1, "steps": 3}
    for given in (
        {"sampler_name": "Euler", "eta": 1.0},
        {"sampler_name": "DDIM", "scheduler": "Karras"},
        {"scheduler": "of another time"},
        {"width": 0, "height": "auto"},
        {"width": 512.5, "height": -1},
        {"sampler_name": "Automatic", "sampler_index": "x"},
    ):
        answer = server.post("/sdapi/v1/txt2img", json=asked | given)
        assert answer.status_code == 200, answer.text
    answer = server.post("/sdapi/v1/txt2img", json=asked | {"sampler_name": "Restart"})
    assert answer.status_code == 422
    assert "sampler_name: unknown sampler 'Restart'; allowed: DDIM" in answer.json()["detail"]
