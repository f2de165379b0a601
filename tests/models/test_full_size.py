"""Networks of full size, on the meta device: names, shapes and numbers of their weights."""

from typing import Any

import diffusers
import pytest
import torch
from torch import nn

from models.conditional_unet import UNet2DCondition
from models.config import AutoencoderKLConfig, UNet2DConditionConfig
from models.memory import parameters
from models.vae import AutoencoderKL
from tests.models.published import UNETS, VAES, own


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions", "tensors"),
    [
        ("1.5", 859.5, 686),
        ("1.5 inpainting", 859.5, 686),
        ("2.1", 865.9, 686),
        ("XL", 2567.5, 1680),
        ("LCM", 859.6, 687),
    ],
)
def test_unets(name: str, millions: float, tensors: int) -> None:
    config = UNet2DConditionConfig.from_dict(UNETS[name], "unet/config.json")
    with torch.device("meta"):
        ours = UNet2DCondition(config)
        theirs: Any = diffusers.UNet2DConditionModel(**own(UNETS[name]))
    assert shapes(ours) == shapes(theirs)
    assert len(shapes(ours)) == tensors
    assert round(parameters(ours) / 1e6, 1) == millions


@pytest.mark.parametrize("name", VAES)
def test_vaes(name: str) -> None:
    config = AutoencoderKLConfig.from_dict(VAES[name], "vae/config.json")
    with torch.device("meta"):
        ours, theirs = AutoencoderKL(config), diffusers.AutoencoderKL(**own(VAES[name]))
    assert shapes(ours) == shapes(theirs)
    assert len(shapes(ours)) == 248
    assert parameters(ours) == 83_653_863
