"""72 requests drawn at random: in a crowd, alone, and by the plain loop."""

import io
import random
import zipfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
from PIL import Image

from models.library import find
from models.pipeline import LatentDiffusion, to_uint8
from models.sampling import SAMPLERS
from tests.e2e.live import engine

REQUESTS = 72
_HOW = ("steps", "sampler", "spacing", "guidance_scale", "eta")


def wanted(chance: random.Random) -> list[dict[str, Any]]:
    """Classes, seeds and numbers of images at random; settings from two dozen or so, of every
    sampler, so that the plain loop can draw what shares one in a batch."""
    settings = [
        {
            "steps": min(chance.randint(1, 24), chance.randint(1, 24)),
            "guidance_scale": chance.choice([1.0, 1.0, 1.1, round(chance.uniform(0, 6), 2)]),
            "sampler": sampler.name,
            "spacing": chance.choice(sampler.spacings),
            "eta": chance.choice([0.0, round(chance.random(), 2), 1.0]) if sampler.eta else 0.0,
        }
        for sampler in (SAMPLERS["ddim"], *SAMPLERS.values()) * 2
    ]
    return [
        chance.choice(settings)
        | {
            "class": chance.choice([*map(str, range(10)), None]),
            "seed": chance.randrange(2**32),
            "n": chance.choice([1, 1, 1, 2, 3]),
        }
        for _ in range(REQUESTS)
    ]


def test_pixels_do_not_depend_on_company(url: str) -> None:
    chance = random.Random(3)
    bodies = wanted(chance)
    before = engine(url)["cancelled"]
    limits = httpx.Limits(max_connections=None)
    headers = {"accept": "application/zip"}
    with httpx.Client(limits=limits, timeout=240, headers=headers) as client:

        def ask(body: dict[str, Any]) -> bytes:
            answer = client.post(f"{url}/generate", json=body)
            assert answer.status_code == 200, answer.text
            return answer.content

        def leave(seconds: float) -> None:
            """Ask for much, and be gone after a while."""
            body = {
                "class": "1",
                "steps": 1000,
                "n": 16,
                "guidance_scale": 2.0,
                "timeout": 3600,
            }
            try:
                client.post(f"{url}/generate", json=body, timeout=seconds)
            except httpx.TimeoutException:
                return
            raise AssertionError("sixteen thousand guided steps, this fast?")

        with ThreadPoolExecutor(4) as leaving:
            crowd: list[bytes] = []
            gone = [leaving.submit(leave, chance.uniform(0.1, 1.5)) for _ in range(15)]
            while len(crowd) < REQUESTS:
                size = chance.choice([1, 3, 10, 30, 60])
                with ThreadPoolExecutor(size) as pool:
                    crowd += pool.map(ask, bodies[len(crowd) : len(crowd) + size])
            for one in gone:
                one.result()
        left = engine(url)["cancelled"] - before
        assert 0 < left <= 15  # who left before being heard is not counted
        assert engine(url)["cancel_ticks"] <= 1
        for body, in_company in zip(bodies, crowd, strict=True):
            assert ask(body) == in_company, f"alone it is another: {body}"
        assert engine(url)["jobs"] == 0
    compare_with_the_plain_loop(bodies, crowd)


def compare_with_the_plain_loop(bodies: list[dict[str, Any]], crowd: list[bytes]) -> None:
    model = LatentDiffusion.open(find("digits"), block_rows=8)  # a group has few rows
    alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for i, body in enumerate(bodies):
        alike[tuple(body[name] for name in _HOW)].append(i)
    furthest = 0
    for how, members in alike.items():
        labels = [bodies[i]["class"] for i in members for _ in range(bodies[i]["n"])]
        seeds = [bodies[i]["seed"] + k for i in members for k in range(bodies[i]["n"])]
        options: Any = dict(zip(_HOW, how, strict=True))
        images = to_uint8(model.sample(labels, seeds, **options)).numpy()
        made = np.concatenate([unzip(crowd[i]) for i in members])
        furthest = max(furthest, int(np.abs(made.astype(int) - images[..., 0]).max()))
    assert furthest <= 1, f"{furthest}/255 from the plain loop"


def unzip(content: bytes) -> "np.ndarray[Any, Any]":
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = [archive.read(name) for name in archive.namelist()]
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
