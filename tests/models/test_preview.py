"""The linear map that previews go through."""

import pytest
import torch
import torch.nn.functional as F

from models.preview import LatentPreview


def test_a_decoder_that_is_linear_is_found_exactly() -> None:
    """Images that one convolution makes of latents: the fit is that convolution."""
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(64, 3, 5, 6, generator=draw)
    weight = torch.randn(2 * 16, 3, 3, 3, generator=draw) / 5
    bias = torch.randn(2 * 16, generator=draw) / 5
    images = F.pixel_shuffle(F.conv2d(latents, weight, bias, padding=1), 4)
    fitted = LatentPreview.fit(latents, images)
    others = torch.randn(8, 3, 5, 6, generator=draw)
    expected = F.pixel_shuffle(F.conv2d(others, weight, bias, padding=1), 4)
    assert (fitted(others) - expected).square().mean() < 1e-4 * expected.square().mean()


@pytest.mark.parametrize(
    ("size", "scale", "longest", "shown"),
    [((8, 8), 4, 128, (32, 32)), ((64, 64), 8, 128, (128, 128)), ((64, 48), 8, 128, (128, 96))],
)
def test_large_images_are_shown_small(
    size: tuple[int, int], scale: int, longest: int, shown: tuple[int, int]
) -> None:
    latents = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(latents[:, :3], scale_factor=scale)
    fitted = LatentPreview.fit(latents, images, longest=longest)
    assert fitted(latents).shape == (2, 3, *shown)
    small = F.adaptive_avg_pool2d(images, shown)
    assert (fitted(latents) - small).square().mean() < 0.01, "each patch is one latent's"
