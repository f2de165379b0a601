"""Clients of other services draw prompts, at sizes that they choose, by tiny Stable Diffusions."""

import base64
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.files.formats import open_image
from tests.clients.conftest import assert_same
from tests.e2e import live

pytestmark = pytest.mark.server
MODELS = {"sd": "1.5", "xl": "SDXL"}  # as they are served -> in tests/stable.py
PROMPT, NEGATIVE = "ein Fuchs im Schnee, 水彩画 🦊", "blurry, unscharf"
NATIVE: dict[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE,
    "seed": 42,
    "steps": 4,
    "guidance_scale": 5.5,
    "width": 64,
    "height": 128,
}
BOTH = pytest.mark.parametrize("model", MODELS)


@pytest.fixture(scope="module")
def stable_url(stable_folder: Callable[[str], Path]) -> Iterator[str]:
    models = ",".join(f"{name}={stable_folder(shape)}" for name, shape in MODELS.items())
    with live.serving(models=models, slots=2, rows=4) as (url, _):
        yield url


@BOTH
def test_openai(model: str, stable_url: str) -> None:
    """What its API has no word for goes by `extra_body`; `quality` is passed over."""
    library = pytest.importorskip("openai")
    extra = {name: NATIVE[name] for name in ("negative_prompt", "seed", "guidance_scale")}
    extra |= {"num_inference_steps": 4, "clip_skip": 1, "sampler": "unipc"}
    with library.OpenAI(base_url=f"{stable_url}/v1", api_key="x", max_retries=0) as client:
        made = client.images.generate(
            model=model, prompt=PROMPT, size="64x128", quality="high", n=2, extra_body=extra
        )
        auto = client.images.generate(model=model, prompt=PROMPT, size="auto", extra_body=extra)
    assert (made.size, auto.size) == ("64x128", "64x64")
    for k, image in enumerate(made.data):
        wanted = NATIVE | {"seed": 42 + k, "model": model, "clip_skip": 1, "sampler": "unipc"}
        assert_same(base64.b64decode(image.b64_json), stable_url, **wanted)


@BOTH
def test_huggingface(model: str, stable_url: str) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(f"{stable_url}/models/{model}")
    image = client.text_to_image(
        PROMPT,
        negative_prompt=NEGATIVE,
        width=64,
        height=128,
        num_inference_steps=4,
        guidance_scale=5.5,
        scheduler="EulerAncestralDiscreteScheduler",
        seed=42,
        extra_body={"clip_skip": 1},
    )
    assert_same(image, stable_url, **NATIVE, model=model, sampler="euler_a", clip_skip=1)


@BOTH
def test_webuiapi(model: str, stable_url: str) -> None:
    """Its clip skip counts from 1, and comes with the checkpoint among the settings overridden."""
    webuiapi = pytest.importorskip("webuiapi")
    address = httpx.URL(stable_url)
    api = webuiapi.WebUIApi(host=address.host, port=address.port)
    result = api.txt2img(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        seed=42,
        steps=4,
        cfg_scale=5.5,
        width=64,
        height=128,
        sampler_name="DPM++ 2M",
        scheduler="Karras",
        override_settings={"CLIP_stop_at_last_layers": 2, "sd_model_checkpoint": model},
    )
    how = {"sampler": "dpmpp_2m", "spacing": "karras", "clip_skip": 1}
    assert_same(result.image, stable_url, **NATIVE, model=model, **how)
    assert (result.info["prompt"], result.info["negative_prompt"]) == (PROMPT, NEGATIVE)
    assert (result.info["width"], result.info["height"]) == (64, 128)
    plain = api.txt2img(
        prompt=PROMPT,
        seed=42,
        steps=4,
        cfg_scale=5.5,
        width=64,
        height=64,
        sampler_name="Euler",
        override_settings={"sd_model_checkpoint": model},
    )
    wanted = NATIVE | {"negative_prompt": "", "height": 64}
    assert_same(plain.image, stable_url, **wanted, model=model, sampler="euler")


@BOTH
def test_replicate(model: str, stable_url: str) -> None:
    library = pytest.importorskip("replicate")
    client = library.Client(api_token="x", base_url=stable_url)
    wanted = NATIVE | {"num_inference_steps": 4, "num_outputs": 2, "scheduler": "K_EULER"}
    del wanted["steps"]
    files = client.run(f"local/{model}", input=wanted | {"clip_skip": 1})
    for k, file in enumerate(files):
        expected = NATIVE | {"seed": 42 + k, "sampler": "euler", "clip_skip": 1}
        assert_same(file.read(), stable_url, **expected, model=model)
    client._client.close()  # nobody else would


@BOTH
def test_what_is_asked_for_makes_a_difference(model: str, stable_url: str) -> None:
    """Else pictures would be equal that left it out."""
    how = NATIVE | {"model": model}
    others: tuple[dict[str, Any], ...] = (
        {},
        {"prompt": "a fox"},
        {"negative_prompt": ""},
        {"clip_skip": 1},
        {"guidance_scale": 1.0},
        {"sampler": "euler_a"},
        {"seed": 1},
        {"height": 64},
    )
    drawn = {live.draw(stable_url, how | other) for other in others}
    assert len({pixels(file) for file in drawn}) == len(others)


def pixels(file: bytes) -> bytes:
    return open_image(file).image.tobytes()
