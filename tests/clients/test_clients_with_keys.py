"""Clients as their makers publish them, with a key where each of them has a place for one."""

import base64
from typing import Any

import httpx
import pytest

from app.files.formats import open_image
from tests.conftest import KEY
from tests.e2e.live import web


def test_openai(keyed_url: str) -> None:
    library = pytest.importorskip("openai")
    with library.OpenAI(base_url=f"{keyed_url}/v1", api_key=KEY, max_retries=0) as client:
        made = client.images.generate(prompt="cat", extra_body={"num_inference_steps": 2})
        assert open_image(base64.b64decode(made.data[0].b64_json)).image.size == (16, 16)
        assert [model.id for model in client.models.list()] == ["digits"]
        with pytest.raises(library.BadRequestError, match="asks for 20000 evaluations"):
            client.images.generate(prompt="cat", n=10, extra_body={"num_inference_steps": 1000})
    with library.OpenAI(base_url=f"{keyed_url}/v1", api_key="sk-x", max_retries=0) as client:
        with pytest.raises(library.AuthenticationError) as refused:
            client.images.generate(prompt="cat")
        assert refused.value.code == "invalid_api_key"
        assert refused.value.request_id


def test_replicate(keyed_url: str) -> None:
    library = pytest.importorskip("replicate")
    wanted = {"prompt": "cat", "num_inference_steps": 2}
    client = library.Client(api_token=KEY, base_url=keyed_url)
    (file,) = client.run("local/digits", input=wanted)
    assert open_image(file.read()).image.size == (16, 16)
    client._client.close()
    client = library.Client(api_token="r8_wrong", base_url=keyed_url)
    with pytest.raises(library.exceptions.ReplicateError) as refused:
        client.run("local/digits", input=wanted)
    assert (refused.value.status, refused.value.title) == (401, "Unauthorized")
    client._client.close()


@pytest.mark.parametrize("path", ["/generate", "/models/digits"])
def test_huggingface(keyed_url: str, path: str) -> None:
    hub: Any = pytest.importorskip("huggingface_hub")
    client = hub.InferenceClient(keyed_url + path, token=KEY)
    assert client.text_to_image("cat", num_inference_steps=2).size == (16, 16)
    with pytest.raises(hub.errors.HfHubHTTPError, match="an API key is needed"):
        hub.InferenceClient(keyed_url + path).text_to_image("cat")
    with pytest.raises(hub.errors.HfHubHTTPError, match="is not one of this server's"):
        hub.InferenceClient(keyed_url + path, token="hf_wrong").text_to_image("cat")


def test_webuiapi(keyed_url: str) -> None:
    webuiapi = pytest.importorskip("webuiapi")
    address = httpx.URL(keyed_url)
    api = webuiapi.WebUIApi(host=address.host, port=address.port)
    with pytest.raises(RuntimeError, match="an API key is needed"):
        api.txt2img(prompt="cat", steps=2)
    api.set_auth("anybody", KEY)
    assert api.txt2img(prompt="cat", steps=2).image.size == (16, 16)
    assert api.get_progress()["progress"] == 0
    assert api.util_get_model_names()


def test_open_webui_sends_an_empty_header(keyed_url: str) -> None:
    """It is no key, and hides none."""
    empty = {"authorization": ""}
    assert web.get(f"{keyed_url}/sdapi/v1/options", headers=empty).status_code == 401
    assert web.get(f"{keyed_url}/sdapi/v1/options", headers=empty | {"x-api-key": KEY}).is_success


def test_curl_has_a_place_for_it(keyed_url: str) -> None:
    with httpx.Client(auth=("", KEY)) as client:  # curl -u :KEY
        assert client.get(f"{keyed_url}/models").is_success
    with httpx.Client(auth=(KEY, "")) as client:  # curl -u KEY:
        assert client.get(f"{keyed_url}/models").is_success
