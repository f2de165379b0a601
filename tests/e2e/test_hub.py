"""A server whose model is on a hub: its worker fetches it, and the server goes on answering."""

import io
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageChops

from tests.e2e import live
from tests.e2e.live import web
from tests.small_hub import SmallHub

ASKED = {"class": "cat", "seed": 3, "steps": 4}


def picture(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content)).convert("RGB")


@pytest.mark.server
def test_a_model_of_the_hub_draws_as_its_folder(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: TestClient
) -> None:
    hub = SmallHub({"films/tiny": {"main": tiny_folder}})
    with hub.running() as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        with live.serving(models="films/tiny,films/lost", backend="eager") as (url, _):
            models = web.get(f"{url}/models").json()
            drawn = web.post(f"{url}/generate", json=ASKED, timeout=60)
            lost = web.post(f"{url}/generate", json={**ASKED, "model": "lost"}, timeout=60)
    assert "tiny" in str(models)
    same = server.post("/generate", json=ASKED)
    assert ImageChops.difference(picture(drawn.content), picture(same.content)).getbbox() is None
    assert lost.status_code == 503
    assert "no such repository" in lost.text
    assert str(tmp_path) not in lost.text, "where the cache is, is nobody's business"
