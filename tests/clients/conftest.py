"""Clients as their makers publish them, against the real server with the shipped model.

Each must get the picture that the native API gives for the same seed and parameters.
"""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from app.files.formats import open_image
from tests.e2e.live import web

FOLDER = Path(__file__).parent / "npm"


def native(url: str, **wanted: object) -> Image.Image:
    """The picture of the native API; e.g. native(url, **{"class": "7"}, seed=1, steps=10)."""
    answer = web.post(f"{url}/generate", json=wanted, headers={"accept": "image/png"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return open_image(answer.content).image


def assert_same(made: bytes | Image.Image, url: str, **wanted: object) -> None:
    """Whether a file or picture has the pixels of the native one."""
    image = open_image(made).image if isinstance(made, bytes) else made
    expected = native(url, **wanted)
    assert image.size == expected.size
    assert image.convert("RGB").tobytes() == expected.convert("RGB").tobytes()


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """Where the packages are, installed as package-lock.json has them."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    modules, lock = FOLDER / "node_modules", FOLDER / "package-lock.json"
    done = modules / ".package-lock.json"  # npm's own, which it writes last
    with lock.open() as held:  # several processes run the tests
        fcntl.flock(held, fcntl.LOCK_EX)
        if not done.exists() or done.stat().st_mtime < lock.stat().st_mtime:
            subprocess.run(["npm", "ci"], cwd=FOLDER, check=True)
    return modules
