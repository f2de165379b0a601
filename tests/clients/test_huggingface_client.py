"""Hugging Face's Python client."""

from typing import Any

import pytest

from tests.clients.conftest import assert_same

hub: Any = pytest.importorskip("huggingface_hub")
FAST = {"seed": 42, "num_inference_steps": 20}


@pytest.mark.parametrize("path", ["/generate", "/models/digits"])
def test_text_to_image(url: str, path: str) -> None:
    image = hub.InferenceClient(url + path).text_to_image("7", **FAST)
    assert_same(image, url, **{"class": "7"}, seed=42, steps=20)


@pytest.mark.parametrize("path", ["/generate", "/models/digits"])
def test_every_parameter(url: str, path: str) -> None:
    """The size is the model's, whatever is asked for."""
    client = hub.InferenceClient(url + path)
    asked = {"negative_prompt": "a 1", "height": 64, "width": 64, "scheduler": "DDIM"}
    extra = {"eta": 0.5, "num_images_per_prompt": 1}
    image = client.text_to_image("a 3", guidance_scale=2.5, extra_body=extra, **asked, **FAST)
    assert_same(image, url, **{"class": "3"}, seed=42, steps=20, guidance_scale=2.5, eta=0.5)


def test_an_error_is_shown(url: str) -> None:
    error = hub.errors.HfHubHTTPError
    client = hub.InferenceClient(f"{url}/generate")
    with pytest.raises(error, match="inputs: names none of the classes; allowed: a text") as said:
        client.text_to_image("a cat")
    assert said.value.request_id
    with pytest.raises(error, match="num_inference_steps: Input should be less than or equal"):
        client.text_to_image("7", num_inference_steps=2000)
    with pytest.raises(error, match="unknown model 'shoes'; loaded: digits"):
        hub.InferenceClient(f"{url}/models/shoes").text_to_image("7")
