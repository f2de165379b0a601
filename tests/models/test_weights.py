"""The models that ship: they open in diffusers, which draws the same images from the same noise."""

from pathlib import Path

import diffusers
import pytest
import torch

from models.library import WEIGHTS, shipped
from models.pipeline import LatentDiffusion, to_uint8

SHIPPED = shipped()


def test_digits_ships() -> None:
    assert "digits" in SHIPPED


@pytest.mark.parametrize("folder", SHIPPED.values(), ids=SHIPPED.keys())
def test_diffusers_draws_our_image(folder: Path) -> None:
    model = LatentDiffusion.open(folder)
    vae = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae")
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    scheduler.set_timesteps(20)
    labels = torch.arange(8) % len(model.classes.names)
    null = torch.full_like(labels, model.classes.null or 0)
    seeds = [100 + k for k in range(8)]
    x = torch.stack([model.start(seed)[0] for seed in seeds])
    with torch.inference_mode():
        for t in scheduler.timesteps:
            conditional = unet(x, t, class_labels=labels).sample
            unconditional = unet(x, t, class_labels=null).sample
            output = unconditional + 1.5 * (conditional - unconditional)
            x = scheduler.step(output, t, x).prev_sample
        theirs = to_uint8(vae.decode(x / vae.config.scaling_factor).sample.clamp(-1, 1))
    ours = to_uint8(model.sample(labels.tolist(), seeds, steps=20, guidance_scale=1.5))
    assert (ours.int() - theirs.int()).abs().max() <= 1
    assert ours.float().std() > 30, "something is drawn"


@pytest.mark.parametrize("folder", SHIPPED.values(), ids=SHIPPED.keys())
def test_a_model_that_ships_is_small_and_says_where_it_comes_from(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.rglob("*")) <= 16 * 2**20
    card = (folder / "README.md").read_text()
    for part in ("## Recipe", "## Figures", "## Data and licence"):
        assert part in card
    assert folder.parent == WEIGHTS
