"""webuiapi, as it is published."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.clients.conftest import assert_same
from tests.e2e.live import wait_until

webuiapi = pytest.importorskip("webuiapi")


@pytest.fixture
def api(url: str) -> Any:
    address = httpx.URL(url)
    return webuiapi.WebUIApi(host=address.host, port=address.port)


def test_txt2img_is_the_native_picture(api: Any, url: str) -> None:
    """Its own sampler is Euler a, its eta 1 and its guidance scale 7, where none are given."""
    api.util_wait_for_ready()
    result = api.txt2img(prompt="7", seed=42, steps=20, width=512, height=512)
    wanted: dict[str, Any] = {"class": "7", "seed": 42, "steps": 20}
    assert_same(result.image, url, **wanted, guidance_scale=7, sampler="euler_a")
    result = api.txt2img(prompt="7", seed=42, steps=20, sampler_name="DDIM")
    assert_same(result.image, url, **wanted, guidance_scale=7, eta=1)
    assert result.info["all_seeds"] == [42]
    assert result.info["width"] == 32
    ddim = {"sampler_name": "DDIM", "eta": 0}
    result = api.txt2img(prompt="7", seed=42, steps=20, cfg_scale=1.5, batch_size=2, **ddim)
    for k, image in enumerate(result.images):
        assert_same(image, url, **wanted | {"seed": 42 + k}, guidance_scale=1.5)


def test_progress_is_told_and_interrupted(api: Any) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(api.txt2img, prompt="7", steps=1000, batch_size=16)
        wait_until(lambda: api.get_progress()["progress"] > 0.02)
        first = api.get_progress()
        assert first["state"]["job_count"] == 1
        wait_until(lambda: api.get_progress()["progress"] > first["progress"])
        wait_until(lambda: api.get_progress()["current_image"])
        api.interrupt()
        assert running.result().images == []
    api.util_wait_for_ready(check_interval=0.1)


def test_what_is_loaded_and_what_a_picture_says(api: Any) -> None:
    (model,) = api.get_sd_models()
    assert api.util_get_current_model() == model["title"]
    assert api.util_get_model_names() == [model["title"]]
    api.util_set_model(model["title"])
    assert api.get_samplers()[0]["name"] == "DDIM"
    api.set_options(api.get_options())
    image = api.txt2img(prompt="7", seed=1, steps=2, cfg_scale=1.1).image
    told = api.png_info(image).info
    assert told.startswith("7\nSteps: 2, Sampler: Euler a")


def test_errors_are_its_own(api: Any) -> None:
    with pytest.raises(RuntimeError, match="names none of the classes"):
        api.txt2img(prompt="a cat")
