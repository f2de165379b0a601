"""Large latents are decoded in tiles, as diffusers' `enable_tiling` does it; small ones are not."""

from dataclasses import replace
from typing import Any

import diffusers
import openvino as ov
import pytest
import torch
from torch import Tensor, nn

from app.engine.backends.openvino import convert
from models.config import AutoencoderKLConfig
from models.memory import decoding
from models.tiles import tile_side
from models.vae import AutoencoderKL
from tests.models.published import VAES as PUBLISHED
from tests.models.test_parity import TOLERANCE, VAES, keywords, relative
from tests.tiny import VAE

SIDE = 8  # of a tile, in latent pixels
F32 = {"INFERENCE_PRECISION_HINT": "f32"}


def published(name: str) -> AutoencoderKLConfig:
    return AutoencoderKLConfig.from_dict(PUBLISHED[name], "vae/config.json")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.vae.tile_side", lambda _: SIDE)


def pair(config: AutoencoderKLConfig) -> tuple[AutoencoderKL, Any]:
    """Ours and diffusers' with the same weights, and the same tiles."""
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderKL(**keywords(config)).eval()
    theirs.enable_tiling()
    theirs.tile_latent_min_size = SIDE
    theirs.tile_sample_min_size = SIDE * config.downscale
    ours = AutoencoderKL(config).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("change", VAES.values(), ids=VAES.keys())
@pytest.mark.parametrize(
    "size",
    [
        (16, 16),
        (12, 12),  # the last tiles hold nothing new but what they share
        (9, 23),
        (25, 10),
        (14, 7),  # one tile across, a last one of two pixels down
        (5, 64),
        (1, 65),
    ],
)
def test_tiles_are_those_of_diffusers(change: dict[str, Any], size: tuple[int, int]) -> None:
    ours, theirs = pair(replace(VAE, **change))
    latents = torch.randn(2, ours.config.latent_channels, *size)
    with torch.inference_mode():
        expected, whole = theirs.decode(latents).sample, ours._decode(latents)
        assert relative(ours.decode(latents), expected) <= TOLERANCE
    assert relative(whole, expected) > 100 * TOLERANCE  # tiles can be told


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("size", [(8, 8), (4, 16), (64, 1), (3, 5)])
def test_a_latent_of_no_larger_area_than_a_tile_is_decoded_whole(size: tuple[int, int]) -> None:
    ours, theirs = pair(VAE)
    theirs.disable_tiling()
    latents = torch.randn(2, VAE.latent_channels, *size)
    with torch.inference_mode():
        made = ours.decode(latents)
        assert torch.equal(made, ours._decode(latents))
        assert relative(made, theirs.decode(latents).sample) <= TOLERANCE


@pytest.mark.usefixtures("small_tiles")
def test_scale_and_shift_go_before_the_tiles() -> None:
    config = replace(VAE, scaling_factor=0.5, shift_factor=0.3)
    ours, theirs = pair(config)
    latents = torch.randn(1, config.latent_channels, 11, 19)
    with torch.inference_mode():
        expected = theirs.decode(latents / 0.5 + 0.3).sample
        assert relative(ours.decode(latents), expected) <= TOLERANCE


@pytest.mark.usefixtures("small_tiles")
def test_rows_never_meet() -> None:
    ours, _ = pair(VAE)
    latents = torch.randn(3, VAE.latent_channels, 11, 19)
    others = latents.clone()
    others[[0, 2]] = 1e3 * torch.randn(2, *latents.shape[1:])
    with torch.inference_mode():
        assert torch.equal(ours.decode(latents)[1], ours.decode(others)[1])


class Decoder(nn.Module):
    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


@pytest.mark.slow
@pytest.mark.usefixtures("small_tiles")
@torch.inference_mode()
def test_openvino_decodes_the_same_tiles_for_any_number_of_rows() -> None:
    ours, _ = pair(VAE)
    latents = torch.randn(3, VAE.latent_channels, 11, 19)
    compiled = ov.Core().compile_model(convert(Decoder(ours), (latents[:2],))(3), "CPU", F32)

    def decode(z: Tensor) -> Tensor:
        return torch.from_numpy(compiled([z.numpy()])[0].copy())

    made = decode(latents)
    assert relative(made, ours.decode(latents)) <= TOLERANCE
    beside_others = decode(torch.cat([latents[:1], latents[1:].flip(0) + 1]))
    assert torch.equal(beside_others[0], made[0])
    assert not torch.equal(beside_others[1:], made[1:])


@pytest.mark.usefixtures("small_tiles")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_keep_the_precision(dtype: torch.dtype) -> None:
    ours, theirs = pair(VAE)
    latents = torch.randn(1, 2, 11, 19)
    with torch.inference_mode():
        expected = theirs.decode(latents).sample
        made = ours.to(dtype).decode(latents.to(dtype))
    assert made.dtype == dtype
    assert relative(made.float(), expected) < (0.005 if dtype == torch.float16 else 0.04)


@pytest.mark.parametrize("name", PUBLISHED)
def test_tiles_of_stable_diffusion_have_sides_of_1024_pixels(name: str) -> None:
    assert tile_side(published(name)) == 128


@pytest.mark.parametrize(
    ("width", "height", "tiles"),
    [
        (512, 512, 1),
        (768, 768, 1),
        (1024, 1024, 1),
        (1152, 896, 1),
        (1536, 640, 1),
        (512, 2048, 1),
        (1536, 1024, 4),
        (1536, 1536, 4),
        (2048, 2048, 9),
        (640, 2048, 3),
    ],
)
def test_stable_diffusion_is_decoded_whole_up_to_a_megapixel(
    width: int, height: int, tiles: int
) -> None:
    calls: list[tuple[int, ...]] = []
    with torch.device("meta"):
        vae, latents = AutoencoderKL(published("XL")), torch.empty(1, 4, height // 8, width // 8)
    vae.decoder.register_forward_pre_hook(lambda _, read: calls.append(tuple(read[0].shape[2:])))
    assert vae.decode(latents).shape == (1, 3, height, width)
    assert len(calls) == tiles
    assert max(h * w for h, w in calls) <= 128 * 128


@pytest.mark.parametrize("change", VAES.values(), ids=VAES.keys())
def test_the_largest_map_of_a_tile_is_bounded(
    change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The widest of these maps is the full-size one with the channels of the level below."""
    config = replace(VAE, **change)
    tile = 4 * 16 * (SIDE * config.downscale) ** 2
    monkeypatch.setattr("models.tiles.LARGEST_MAP", tile)
    assert tile_side(config) == SIDE
    monkeypatch.setattr("models.tiles.LARGEST_MAP", tile - 1)
    assert tile_side(config) == SIDE - 4


def test_a_tile_has_four_pixels_at_least() -> None:
    wide = replace(
        VAE,
        down_block_types=VAE.down_block_types[:1] * 8,
        up_block_types=VAE.up_block_types[:1] * 8,
        block_out_channels=(4096,) * 8,
    )
    assert tile_side(wide) == 4


def test_memory_of_a_large_image_is_that_of_a_tile_and_of_the_image() -> None:
    config = published("XL")
    tile, large = decoding(config, 128 * 128), decoding(config, 256 * 256)
    image = 3 * 2048 * 2048 * 4
    assert decoding(config, 64 * 64) == tile / 4
    assert tile + 2 * image < large < tile + 8 * image < 2 * tile
