"""OpenAI's Python client, and two libraries that are built upon it."""

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.clients.conftest import assert_same
from tests.e2e.live import web

FAST = {"seed": 42, "num_inference_steps": 10}


@pytest.fixture
def openai(url: str) -> Iterator[Any]:
    library = pytest.importorskip("openai")
    with library.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        yield client


def decoded(image: Any) -> bytes:
    assert image.url is None
    return base64.b64decode(image.b64_json)


def test_generate(url: str, openai: Any) -> None:
    made = openai.images.generate(
        model="digits", prompt="a 7", size="512x512", quality="high", extra_body=FAST
    )
    assert (made.size, made.output_format, made.quality) == ("32x32", "png", "high")
    assert made.usage.total_tokens == made.usage.output_tokens_details.image_tokens == 0
    assert made.seed == 42
    (image,) = made.data
    assert_same(decoded(image), url, **{"class": "7"}, seed=42, steps=10)


def test_generate_two(url: str, openai: Any) -> None:
    made = openai.images.generate(
        prompt="3", model="gpt-image-1", n=2, output_format="webp", extra_body=FAST
    )
    assert len(made.data) == 2
    for k, image in enumerate(made.data):
        assert_same(decoded(image), url, **{"class": "3"}, seed=42 + k, steps=10)


def test_generate_with_parts(url: str, openai: Any) -> None:
    told = list(openai.images.generate(prompt="5", stream=True, partial_images=2, extra_body=FAST))
    assert [event.type for event in told] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert [event.partial_image_index for event in told[:2]] == [0, 1]
    assert len({event.b64_json for event in told}) == 3
    assert told[-1].usage.total_tokens == 0
    file = base64.b64decode(told[-1].b64_json)
    assert_same(file, url, **{"class": "5"}, seed=42, steps=10)


def test_generate_addresses(url: str, openai: Any) -> None:
    made = openai.images.generate(prompt="0", response_format="url", extra_body=FAST)
    (image,) = made.data
    assert image.b64_json is None
    assert image.url.startswith(f"{url}/images/")
    file = web.get(image.url).raise_for_status().content
    assert_same(file, url, **{"class": "0"}, seed=42, steps=10)


def test_models(openai: Any) -> None:
    assert [model.id for model in openai.models.list()] == ["digits"]
    model = openai.models.retrieve("digits")
    assert (model.object, model.owned_by) == ("model", "darkroom")


def test_errors(openai: Any) -> None:
    library = pytest.importorskip("openai")
    generate = openai.images.generate
    with pytest.raises(library.NotFoundError) as missing:
        generate(prompt="7", model="shoes")
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    assert missing.value.type == "invalid_request_error"
    with pytest.raises(library.NotFoundError) as missing:
        openai.models.retrieve("shoes")
    assert missing.value.code == "model_not_found"
    for field, wrong in {"prompt": {"prompt": "a cat"}, "n": {"prompt": "7", "n": 99}}.items():
        with pytest.raises(library.BadRequestError) as refused:
            generate(**wrong)
        assert (refused.value.code, refused.value.param) == (None, field)
        assert refused.value.request_id
    with pytest.raises(library.BadRequestError) as refused:
        generate(prompt="7", stream=True, extra_body={"n": 2})
    assert refused.value.param == "n"


def test_litellm(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network for it
    litellm = pytest.importorskip("litellm")
    with httpx.Client(timeout=60) as session:  # its own stays open
        monkeypatch.setattr(litellm, "client_session", session)
        made = litellm.image_generation(
            model="openai/digits",
            prompt="a 2",
            n=2,
            size="512x512",
            api_base=f"{url}/v1",
            api_key="x",
            extra_body=FAST,
        )
    assert len(made.data) == 2
    for k, image in enumerate(made.data):
        assert_same(decoded(image), url, **{"class": "2"}, seed=42 + k, steps=10)


def test_langchain(url: str) -> None:
    """It cannot be told a seed; the image's own headers say which it was."""
    module = pytest.importorskip("langchain_community.utilities.dalle_image_generator")
    wrapper = module.DallEAPIWrapper(base_url=f"{url}/v1", api_key="x", model="dall-e-2", n=2)
    links = wrapper.run("a 9").split("\n")
    wrapper.client._client.close()  # nobody else would
    assert len(links) == 2
    for link in links:
        answer = web.get(link).raise_for_status()
        assert_same(answer.content, url, **{"class": "9"}, seed=int(answer.headers["x-seed"]))
