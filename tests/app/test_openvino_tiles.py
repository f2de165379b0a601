"""OpenVINO decodes large latents tile by tile, with one graph per shape of a tile."""

import pytest
import torch

from app.engine.backends.base import develop
from app.engine.backends.openvino import OpenVino
from models.pipeline import LatentDiffusion


@pytest.mark.slow
def test_tiles_have_the_pixels_of_the_plain_loop(
    tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.vae.tile_side", lambda _: 8)
    monkeypatch.setattr("app.engine.backends.openvino.tile_side", lambda _: 8)
    backend = OpenVino(tiny, shape=(2, 10, 20))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 2, 10, 20, generator=generator)
    with torch.inference_mode():
        expected, _ = develop(tiny.vae.decode(latents))
        whole, _ = develop(tiny.vae._decode(latents))
    parts = [backend.decode(latents, part) for part in range(2)]
    for decoding in parts:
        made, sums = decoding.images()
        assert (made.int() - expected.int()).abs().max() <= 1
        assert sums.isfinite().all()
        assert decoding.done()
    assert (made.int() - whole.int()).abs().max() > 1
    assert backend._vae.keys() == {(h, w) for h in (8, 4) for w in (8, 2)}
