"""Clients as their makers publish them, against the real server with the shipped model.

Each must get the picture that the native API gives for the same seed and parameters.
"""

import httpx
from PIL import Image

from app.images import open_image


def native(url: str, **wanted: object) -> Image.Image:
    """The picture of the native API; e.g. native(url, **{"class": "7"}, seed=1, steps=10)."""
    answer = httpx.post(f"{url}/generate", json=wanted, headers={"accept": "image/png"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return open_image(answer.content).image


def assert_same(made: bytes | Image.Image, url: str, **wanted: object) -> None:
    """Whether a file or picture has the pixels of the native one."""
    image = open_image(made).image if isinstance(made, bytes) else made
    expected = native(url, **wanted)
    assert image.size == expected.size
    assert image.convert("RGB").tobytes() == expected.convert("RGB").tobytes()
