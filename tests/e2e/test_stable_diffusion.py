"""Tiny Stable Diffusions behind the real server: what diffusers draws, and in any company."""

import functools
import io
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from app.engine.offline import draw
from app.engine.runner import Runner
from app.engine.wire import Load
from app.schemas.requests import GenerateRequest
from models.sampling import SAMPLERS
from tests import stable
from tests.e2e import live
from tests.e2e.live import web
from tests.e2e.test_exact import unzip
from tests.stable import NEGATIVE, PROMPTS, SMALL

REQUESTS = 120
FEW = 20  # of a backend whose smallest tick has sixteen rows
SIZES = ((16, 16), (24, 32))  # (width, height); each is measured before it is used
Folders = Callable[[str], Path]


def opened(content: bytes) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


CASES: tuple[dict[str, Any], ...] = (
    {"prompt": PROMPTS[0]},
    {"prompt": PROMPTS[1], "negative_prompt": NEGATIVE, "guidance_scale": 7.5},
    {"prompt": PROMPTS[2], "width": 24, "height": 32, "sampler": "euler_a", "guidance_scale": 3.0},
    {"prompt": PROMPTS[3], "sampler": "dpmpp_2m", "spacing": "karras", "clip_skip": 1},
)


@pytest.mark.parametrize("name", SMALL)
def test_what_diffusers_draws(name: str, stable_url: str, stable_folder: Folders) -> None:
    pipeline = stable.opened(stable_folder(name))
    own = pipeline.scheduler
    for case in CASES:
        scale = case.get("guidance_scale", 2.0)
        body = {"model": name, "seed": 5, "steps": 4, **case, "guidance_scale": scale}
        made = opened(live.draw(stable_url, body))
        pipeline.scheduler = own
        if "sampler" in case:
            karras = {"use_karras_sigmas": True} if "spacing" in case else {}
            pipeline.scheduler = stable.scheduled(pipeline, case["sampler"], **karras)
        (expected,) = stable.draw(
            pipeline,
            [case["prompt"]],
            [5],
            size=(case.get("width", 16), case.get("height", 16)),
            negative=case.get("negative_prompt"),
            num_inference_steps=4,
            guidance_scale=scale,
            clip_skip=case.get("clip_skip"),
        )
        assert made.shape == expected.shape
        assert np.abs(made.astype(int) - expected).max() <= 1, case


def wanted(chance: random.Random, models: Sequence[str]) -> dict[str, Any]:
    sampler = chance.choice(list(SAMPLERS.values()))
    width, height = chance.choice(SIZES)
    return {
        "model": chance.choice(models),
        "prompt": f"{chance.choice(PROMPTS)}, {chance.randrange(60)}",
        "negative_prompt": chance.choice(["", "", NEGATIVE, f"no {chance.randrange(9)}"]),
        "guidance_scale": chance.choice([1.0, 1.0, round(chance.uniform(0, 9), 1)]),
        "guidance_interval": chance.choice([[0.0, 1.0], [0.0, 1.0], [0.2, 0.7]]),
        "clip_skip": chance.choice([0, 0, 1]),
        "steps": min(chance.randint(1, 9), chance.randint(1, 9)),
        "sampler": sampler.name,
        "spacing": chance.choice(sampler.spacings),
        "width": width,
        "height": height,
        "seed": chance.randrange(2**32),
        "n": chance.choice([1, 1, 1, 2]),
    }


def check_company(url: str, models: Sequence[str], count: int) -> None:
    """Draw so many requests in crowds of several sizes, and each again alone."""
    chance = random.Random(14)
    bodies = [wanted(chance, models) for _ in range(count)]
    headers = {"accept": "application/zip"}
    with httpx.Client(timeout=240, headers=headers) as client:
        ask = functools.partial(live.draw, url, client=client)
        crowd: list[bytes] = []
        while len(crowd) < count:
            size = chance.choice([5, 20, 40])
            with ThreadPoolExecutor(size) as pool:
                crowd += pool.map(ask, bodies[len(crowd) : len(crowd) + size])
        for body, in_company in zip(bodies, crowd, strict=True):
            assert ask(body) == in_company, f"alone it is another: {body}"
    assert live.engine(url)["jobs"] == 0
    for body, file in zip(bodies, crowd, strict=True):
        assert unzip(file).shape == (body["n"], body["height"], body["width"], 3)


def test_pixels_do_not_depend_on_company(stable_url: str) -> None:
    check_company(stable_url, SMALL, REQUESTS)


@pytest.mark.server
def test_nor_do_they_without_openvino(stable_folder: Folders) -> None:
    models = str(stable_folder("small-SDXL"))
    with live.serving(models=models, backend="eager", slots=8, within=240) as (url, _):
        check_company(url, ["small-SDXL"], FEW)


def test_a_network_that_paints_into_pictures_is_left_out(stable_url: str) -> None:
    names = [model["name"] for model in web.get(f"{stable_url}/models").json()["models"]]
    assert names == [*SMALL]
    body = {"model": "inpainting", "prompt": PROMPTS[0]}
    answer = web.post(f"{stable_url}/generate", json=body, timeout=60)
    assert answer.status_code == 503
    assert "inpainting" in answer.json()["detail"].partition("does not load: ")[2]


@pytest.mark.slow
def test_the_engine_draws_of_a_file_what_it_draws_of_its_folder(
    stable_folder: Folders, tmp_path: Path
) -> None:
    """At the least size there is."""
    folder = stable.as_published("1.5", stable_folder("1.5"), tmp_path / "folder")
    file = stable.save_file("1.5", tmp_path / "file.safetensors")
    load = Load({}, "cpu", "float32", "eager", compile=False, slots=1, rows=1)
    body = {"prompt": PROMPTS[3], "negative_prompt": NEGATIVE, "seed": 3, "steps": 1}
    made = []
    for place in (folder, file):
        runner = Runner.open("it", place, load)
        wanted = GenerateRequest.parse(body | {"width": 256, "height": 256})
        params = wanted.to_params({"it": runner.info})
        made += draw(runner.at(256, 256), params)
    assert (made[0].width, made[0].height) == (256, 256)
    assert made[0] == made[1]
