"""JavaScript clients as npm has them, by tests/clients/npm/clients.mjs."""

import base64
import json
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import assert_same


def run(url: str, modules: Path, client: str) -> "subprocess.CompletedProcess[str]":
    command = ["node", "clients.mjs", url, client]
    return subprocess.run(
        command, cwd=modules.parent, capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("client", "seeds"),
    [
        ("openai", (42, 43)),
        ("openaiStream", (None, None, 42)),
        ("ai", (42, 43)),
        ("huggingface", (42, 42)),
        ("replicate", (42, 43)),
        ("replicateVersion", (42, 42)),
        ("replicatePoll", (42,)),
    ],
)
def test_a_client_gets_the_native_pictures(
    url: str, node_modules: Path, client: str, seeds: tuple[int | None, ...]
) -> None:
    """Of a stream, the last picture is the one; those before it are on the way there."""
    ran = run(url, node_modules, client)
    assert ran.returncode == 0, ran.stderr
    pictures = [base64.b64decode(picture) for picture in json.loads(ran.stdout)]
    for picture, seed in zip(pictures, seeds, strict=True):
        if seed is None:
            assert picture != pictures[-1]
        else:
            assert_same(picture, url, **{"class": "7"}, seed=seed, steps=10)


def test_a_prediction_is_cancelled(url: str, node_modules: Path) -> None:
    assert "canceled, then canceled" in run(url, node_modules, "replicateCancel").stderr


@pytest.mark.parametrize("client", ["huggingfaceError", "replicateError"])
def test_a_client_shows_what_is_wrong(url: str, node_modules: Path, client: str) -> None:
    ran = run(url, node_modules, client)
    assert ran.returncode == 1, ran.stdout
    assert "names none of the classes; allowed: a text that names one of: 0, 1, 2" in ran.stderr
