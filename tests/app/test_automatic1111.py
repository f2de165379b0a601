"""AUTOMATIC1111's API: what its clients send, and what they read."""

import base64
import io
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from app.engine.job import MAX_SEED
from app.files.formats import JPEG, PNG, WEBP, encode, open_image
from tests import hostile
from tests.fakes import pixel

API = "/sdapi/v1"
CHEAP: dict[str, Any] = {"prompt": "a cat", "steps": 2, "seed": 1}
HOSTILE = hostile.pictures()


def txt2img(server: TestClient, **wanted: object) -> dict[str, Any]:
    answer = server.post(f"{API}/txt2img", json=CHEAP | wanted)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def native(server: TestClient, **wanted: object) -> bytes:
    return server.post("/generate", json={"class": "cat", "steps": 2, "seed": 1} | wanted).content


def assert_error(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    body: dict[str, str] = answer.json()
    assert set(body) == {"error", "detail", "body", "errors"}
    assert body["detail"] == body["errors"]
    return body["detail"]


def test_images_are_the_native_ones(server: TestClient) -> None:
    body = txt2img(server, batch_size=2, n_iter=2, cfg_scale=2.5, eta=0.5)
    files = [base64.b64decode(image) for image in body["images"]]
    expected = [native(server, seed=1 + k, guidance_scale=2.5, eta=0.5) for k in range(4)]
    assert files == expected


def test_info_says_what_was_really_used(server: TestClient) -> None:
    (model,) = server.get("/models").json()["models"]
    body = txt2img(server, width=512, height=512, sampler_name="Euler a", batch_size=2)
    info = json.loads(body["info"])
    assert info["all_seeds"] == [1, 2]
    assert (info["seed"], info["steps"], info["cfg_scale"]) == (1, 2, 1.5)
    assert (info["width"], info["height"], info["sampler_name"]) == (16, 16, "Euler a")
    assert (info["sd_model_name"], info["sd_model_hash"]) == ("tiny", model["hash"])
    for text, image in zip(info["infotexts"], body["images"], strict=True):
        assert open_image(base64.b64decode(image)).parameters == text
    assert body["parameters"]["width"] == 16
    assert body["parameters"]["sampler_name"] == "Euler a"


def test_what_is_left_out_or_null_is_the_models(server: TestClient) -> None:
    keys = ("steps", "cfg_scale", "batch_size", "n_iter", "eta", "override_settings", "seed")
    answer = server.post(f"{API}/txt2img", json={"prompt": "cat"} | dict.fromkeys(keys))
    info = json.loads(answer.json()["info"])
    assert (info["steps"], info["cfg_scale"], len(info["all_seeds"])) == (50, 1.5, 1)
    again = txt2img(server, seed=info["seed"], steps=50)
    assert again["images"] == answer.json()["images"]
    random = [json.loads(txt2img(server, seed=-1)["info"])["seed"] for _ in range(2)]
    assert random[0] != random[1]


def test_an_empty_prompt_is_any_class(server: TestClient) -> None:
    (image,) = txt2img(server, prompt="")["images"]
    assert base64.b64decode(image) == native(server, **{"class": None})


def test_a_model_is_chosen_by_name_or_title(server: TestClient) -> None:
    (listed,) = server.get(f"{API}/sd-models").json()
    assert listed["title"] == f"tiny [{listed['hash']}]"
    assert server.get(f"{API}/options").json()["sd_model_checkpoint"] == listed["title"]
    for name in ("tiny", listed["title"], ""):
        txt2img(server, override_settings={"sd_model_checkpoint": name})
    wanted = CHEAP | {"override_settings": {"sd_model_checkpoint": "sdxl"}}
    answer = server.post(f"{API}/txt2img", json=wanted)
    assert "unknown model 'sdxl'; loaded: tiny" in assert_error(answer, 404)


def test_images_can_be_left_out(server: TestClient) -> None:
    body = txt2img(server, send_images=False)
    assert body["images"] == []
    assert json.loads(body["info"])["all_seeds"] == [1]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"prompt": "a bird"}, "prompt: names none of the classes"),
        ({"steps": 0}, "steps: "),
        ({"steps": "many"}, "steps: "),
        ({"cfg_scale": 99}, "cfg_scale: "),
        ({"seed": MAX_SEED + 1}, "seed: "),
        ({"batch_size": 16, "n_iter": 2}, "batch_size * n_iter: must be an integer from 1 to 16"),
        ({"override_settings": {"sd_model_checkpoint": 3}}, "override_settings: "),
    ],
)
def test_what_is_wrong_is_told_in_its_envelope(
    server: TestClient, wanted: dict[str, Any], told: str
) -> None:
    answer = server.post(f"{API}/txt2img", json=CHEAP | wanted)
    assert assert_error(answer, 422).startswith(told)


def test_bodies_that_cannot_be_read(server: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    assert_error(server.post(f"{API}/txt2img", content=b"{", headers=json_type), 400)
    assert_error(server.post(f"{API}/txt2img", content=b"[]", headers=json_type), 422)
    text = {"content-type": "text/plain"}
    assert_error(server.post(f"{API}/txt2img", content=b"x", headers=text), 415)
    assert_error(server.post(f"{API}/txt2img", content=b" " * 100_000, headers=json_type), 413)


def test_an_empty_authorization_is_none(server: TestClient) -> None:
    """As Open WebUI sends it."""
    for given in ("", "Basic eDp5"):
        headers = {"authorization": given}
        assert server.post(f"{API}/txt2img", json=CHEAP, headers=headers).status_code == 200


def test_idle_is_zero_of_everything(server: TestClient) -> None:
    idle = server.get(f"{API}/progress").json()
    assert idle["progress"] == 0.0
    assert idle["state"]["job_count"] == 0
    assert idle["current_image"] is None


LONG = {"prompt": "cat", "steps": 1000, "batch_size": 16, "seed": 5}


def progress(server: TestClient, **query: str) -> dict[str, Any]:
    body: dict[str, Any] = server.get(f"{API}/progress", params=query).json()
    return body


def until(happens: Any) -> None:
    for _ in range(2000):
        if happens():
            return
        time.sleep(0.005)
    raise AssertionError("it did not happen in ten seconds")


def test_progress_rises_and_an_interrupt_ends_it(server: TestClient) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, f"{API}/txt2img", json=LONG)
        until(lambda: progress(server)["state"]["job_count"])
        until(lambda: progress(server)["current_image"])
        first = progress(server)
        until(lambda: progress(server)["progress"] > first["progress"])
        assert re.fullmatch(r"task\([0-9a-f]{32}\)", first["state"]["job"])
        assert progress(server)["state"]["job"] == first["state"]["job"]
        assert 0 < first["progress"] < 1
        assert first["eta_relative"] > 0
        assert first["state"]["sampling_steps"] == 16_000
        assert progress(server, skip_current_image="true")["current_image"] is None
        with Image.open(io.BytesIO(base64.b64decode(first["current_image"]))) as preview:
            assert preview.size == (16, 16)
        assert server.post(f"{API}/interrupt").json() == {}
        answer = running.result()
    assert answer.status_code == 200
    assert answer.json()["images"] == []
    assert json.loads(answer.json()["info"])["seed"] == 5
    assert progress(server)["state"]["job_count"] == 0
    until(lambda: server.get("/engine").json()["running"] == 0)


def test_nobody_sees_or_stops_what_another_address_runs(server: TestClient) -> None:
    other = TestClient(server.app, base_url="http://localhost", client=("192.0.2.7", 1))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(server.post, f"{API}/txt2img", json=LONG | {"steps": 60})
        until(lambda: progress(server)["state"]["job_count"])
        assert progress(other)["state"]["job_count"] == 0
        other.post(f"{API}/interrupt")
        other.post(f"{API}/skip")
        assert len(running.result().json()["images"]) == 16


@pytest.mark.parametrize("kind", [PNG, WEBP, JPEG], ids=lambda kind: kind.name)
def test_a_picture_is_read(server: TestClient, kind: Any) -> None:
    answer = server.post(
        "/generate",
        json={"class": "dog", "steps": 2, "seed": 9},
        headers={"accept": kind.media_type},
    )
    image = base64.b64encode(answer.content).decode()
    wrapped = "\n".join(image[k : k + 76] for k in range(0, len(image), 76))
    for text in (image, wrapped, f"data:{kind.media_type};base64,{image}"):
        told = server.post(f"{API}/png-info", json={"image": text}).json()
        assert told["info"].startswith("dog\nSteps: 2, Sampler: DDIM")
        assert told["parameters"]["Prompt"] == "dog"
        assert told["parameters"]["Seed"] == "9"
        assert told["items"] == {"parameters": told["info"]}


def test_a_picture_that_says_nothing_and_what_is_none(server: TestClient) -> None:
    bare = base64.b64encode(encode(pixel(3), PNG)).decode()
    told = server.post(f"{API}/png-info", json={"image": bare}).json()
    assert told == {"info": "", "items": {}, "parameters": {}}
    for image in ("", "hello", "data:image/png;base64,", base64.b64encode(b"GIF89a").decode()):
        assert_error(server.post(f"{API}/png-info", json={"image": image}), 422)
    assert_error(server.post(f"{API}/png-info", json={}), 422)


def test_what_clients_ask_for_before_they_begin(server: TestClient) -> None:
    for item in server.get(f"{API}/samplers").json():  # whatever is listed can be asked for
        for name in (item["name"], *item["aliases"]):
            assert (
                json.loads(txt2img(server, sampler_name=name)["info"])["sampler_name"]
                == (item["name"])
            )
    for item in server.get(f"{API}/schedulers").json():
        for name in (item["name"], item["label"]):
            info = json.loads(txt2img(server, sampler_name="Euler", scheduler=name)["info"])
            assert info["scheduler"] == item["label"].replace("Automatic", "Uniform")
    for path in ("upscalers", "latent-upscale-modes", "sd-vae", "loras", "prompt-styles"):
        assert server.get(f"{API}/{path}").json() == []
    assert server.get(f"{API}/scripts").json() == {"txt2img": [], "img2img": []}
    assert server.get(f"{API}/embeddings").json() == {"loaded": {}, "skipped": {}}
    options = server.get(f"{API}/options").json()
    assert server.post(f"{API}/options", json=options).json() == {}
    assert server.get(f"{API}/options").json() == options
    assert server.post(f"{API}/refresh-checkpoints").json() == {}


def test_a_picture_of_other_tools_is_read(server: TestClient) -> None:
    """As the web UI writes it."""
    text = (
        "masterpiece, (best quality:1.2), a cat, <lora:add_detail:0.5>, 8k uhd\n"
        "Negative prompt: (worst quality, low quality:1.4), blurry\n"
        "Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7, Seed: 1234567890, Size: 512x768, "
        "Model hash: 6ce0161689, Model: v1-5-pruned, Denoising strength: 0.5, "
        'Lora hashes: "add_detail: 7c6bad76eb54, other: 0a1b2c3d4e5f", Version: v1.6.0'
    )
    image = base64.b64encode(hostile.noted(text)).decode()
    told = server.post(f"{API}/png-info", json={"image": image}).json()
    assert told["info"] == text
    assert told["items"] == {"parameters": text}
    assert told["parameters"] == {
        "Prompt": text.split("\n")[0],
        "Negative prompt": "(worst quality, low quality:1.4), blurry",
        "Steps": "25",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "7",
        "Seed": "1234567890",
        "Size": "512x768",
        "Model hash": "6ce0161689",
        "Model": "v1-5-pruned",
        "Denoising strength": "0.5",
        "Lora hashes": "add_detail: 7c6bad76eb54, other: 0a1b2c3d4e5f",
        "Version": "v1.6.0",
    }


@pytest.mark.parametrize("name", [name for name, (c, _) in HOSTILE.items() if len(c) < 48_000])
def test_a_picture_that_would_unfold_is_told_why_not(server: TestClient, name: str) -> None:
    """The others are too large for a body."""
    content, told = HOSTILE[name]
    image = base64.b64encode(content).decode()
    answer = server.post(f"{API}/png-info", json={"image": image})
    assert told in assert_error(answer, 422)


def test_pictures_are_read_beside_those_that_are_encoded(server: TestClient) -> None:
    """While strangers' pictures fill their threads, an image is drawn and encoded."""
    readers = server.app.state.readers  # type: ignore[attr-defined]
    held = threading.Event()
    waiting = [readers.submit(held.wait, 60) for _ in range(20)]
    with ThreadPoolExecutor(1) as pool:
        body = {"image": base64.b64encode(hostile.noted("a\nb: c")).decode()}
        read = pool.submit(server.post, f"{API}/png-info", json=body)
        try:
            assert txt2img(server)["images"]
            assert not read.done()
        finally:
            held.set()
        assert read.result().status_code == 200
    assert all(future.result() for future in waiting)
