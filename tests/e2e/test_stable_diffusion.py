"""Tiny Stable Diffusions behind the real server: what diffusers draws, and in any company."""

import functools
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from models.sampling import SAMPLERS
from tests import stable
from tests.e2e import live
from tests.e2e.test_exact import unzip
from tests.stable import DRAWN, NEGATIVE, PROMPTS, SIDE

pytestmark = pytest.mark.server
REQUESTS = 200
FEW = 40  # of a backend whose smallest tick has sixteen rows
SIZES = ((SIDE, SIDE), (2 * SIDE, SIDE))  # (width, height); each is measured before it is used
Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def served(stable_folder: Folders) -> Iterator[str]:
    """Every family, and one that cannot be served."""
    models = ",".join(f"{name}={stable_folder(name)}" for name in (*DRAWN, "inpainting"))
    with live.serving(models=models, slots=8, rows=8) as (url, _):
        yield url


def opened(content: bytes) -> "np.ndarray[Any, Any]":
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


CASES: tuple[dict[str, Any], ...] = (
    {"prompt": PROMPTS[0]},
    {"prompt": PROMPTS[1], "negative_prompt": NEGATIVE, "guidance_scale": 7.5},
    {"prompt": PROMPTS[2], "width": 2 * SIDE, "sampler": "euler_a", "guidance_scale": 3.0},
    {"prompt": PROMPTS[3], "sampler": "dpmpp_2m", "spacing": "karras", "clip_skip": 1},
)


@pytest.mark.parametrize("name", DRAWN)
def test_what_diffusers_draws(name: str, served: str, stable_folder: Folders) -> None:
    pipeline = stable.opened(stable_folder(name))
    own = pipeline.scheduler
    for case in CASES:
        scale = case.get("guidance_scale", 2.0)
        body = {"model": name, "seed": 5, "steps": 4, **case, "guidance_scale": scale}
        made = opened(live.draw(served, body))
        pipeline.scheduler = own
        if "sampler" in case:
            karras = {"use_karras_sigmas": True} if "spacing" in case else {}
            pipeline.scheduler = stable.scheduled(pipeline, case["sampler"], **karras)
        (expected,) = stable.draw(
            pipeline,
            [case["prompt"]],
            [5],
            size=(case.get("width", SIDE), SIDE),
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


def test_pixels_do_not_depend_on_company(served: str) -> None:
    check_company(served, DRAWN, REQUESTS)


def test_nor_do_they_without_openvino(stable_folder: Folders) -> None:
    models = f"SDXL={stable_folder('SDXL')}"
    with live.serving(models=models, backend="eager", slots=8, rows=16) as (url, _):
        check_company(url, ["SDXL"], FEW)


def test_a_network_that_paints_into_pictures_is_left_out(served: str) -> None:
    names = [model["name"] for model in httpx.get(f"{served}/models").json()["models"]]
    assert names == [*DRAWN]
    body = {"model": "inpainting", "prompt": PROMPTS[0]}
    answer = httpx.post(f"{served}/generate", json=body, timeout=60)
    assert answer.status_code == 503
    assert "inpainting" in answer.json()["detail"].partition("does not load: ")[2]


def test_one_file_draws_what_its_folder_draws(stable_folder: Folders, tmp_path: Path) -> None:
    """At the least size of a file, whose own is the family's."""
    folder = tmp_path / "folder"
    shutil.copytree(stable_folder("1.5"), folder, copy_function=os.link)
    config = folder / "unet" / "config.json"
    values = json.loads(config.read_text())
    config.unlink()
    config.write_text(json.dumps(values | {"sample_size": 64}))
    file = stable.save_file("1.5", tmp_path / "file.safetensors")
    body = {"prompt": PROMPTS[3], "negative_prompt": NEGATIVE, "seed": 3, "steps": 3}
    body |= {"width": 256, "height": 320}
    with live.serving(models=f"{folder},{file}", slots=2, rows=2) as (url, _):
        one, other = (live.draw(url, body | {"model": name}) for name in ("folder", "file"))
    assert opened(one).shape == (320, 256, 3)
    assert np.array_equal(opened(one), opened(other))
