"""The UNet with few multiplications, against the UNet as it is defined."""

import dataclasses
import functools
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch

from app.engine.backends import openvino
from app.engine.backends.winograd import Winograd, same, strided, toom_cook, upsampled
from models.conditioning import Classes
from models.config import UNet2DConfig
from models.denoiser import Denoiser
from models.pipeline import LatentDiffusion
from models.unet import UNet2D
from tests.tiny import UNET

F32 = {"INFERENCE_PRECISION_HINT": "f32"}


@pytest.mark.parametrize(("outputs", "taps"), [(4, 3), (2, 3), (1, 3), (4, 2), (2, 2), (1, 2)])
def test_few_multiplications_are_a_correlation(outputs: int, taps: int) -> None:
    d, g, a = toom_cook(outputs, taps)
    values, weights = np.random.default_rng(0).normal(size=(2, outputs + taps - 1))
    weights = weights[:taps]
    made = a @ ((g @ weights) * (d @ values))
    np.testing.assert_allclose(made, np.correlate(values, weights, "valid"), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [2, 4, 6, 8, 16])
@pytest.mark.parametrize("kind", ["same", "strided", "upsampled"])
def test_each_transform_is_its_convolution(kind: str, size: int) -> None:
    """In one dimension, float64, with padding 1, against torch."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(1, 1, size, generator=draw, dtype=torch.float64)
    taps = torch.randn(1, 1, 3, generator=draw, dtype=torch.float64)
    d, g, a = {"same": same, "strided": strided, "upsampled": upsampled}[kind](size)
    points = np.einsum("pti,i->pt", d, values[0, 0].numpy()) * (g @ taps[0, 0].numpy())[:, None]
    made = np.einsum("opt,pt->o", a, points)
    if kind == "upsampled":
        values = torch.nn.functional.interpolate(values, scale_factor=2)
    stride = 2 if kind == "strided" else 1
    expected = torch.nn.functional.conv1d(values, taps, stride=stride, padding=1)
    np.testing.assert_allclose(made, expected[0, 0].numpy(), rtol=1e-9, atol=1e-9)


class Compiled:
    """A model that is compiled once for each number of rows."""

    def __init__(self, model: Winograd) -> None:
        self._compile = functools.cache(
            lambda rows: ov.Core().compile_model(model.build(rows), "CPU", F32)
        )

    def __call__(self, *inputs: torch.Tensor) -> np.ndarray[Any, Any]:
        made: np.ndarray[Any, Any] = self._compile(len(inputs[0]))(
            [tensor.numpy() for tensor in inputs]
        )[0]
        return made.copy()


CONFIGS = {
    "tiny": UNET,
    "no classes": dataclasses.replace(UNET, num_class_embeds=None),
    "deeper": dataclasses.replace(
        UNET,
        sample_size=16,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
    ),
    "no middle": dataclasses.replace(UNET, mid_block_type=None),
}


@pytest.mark.parametrize(
    "name", ["tiny", "no classes", "no middle", pytest.param("deeper", marks=pytest.mark.slow)]
)
def test_it_predicts_what_the_unet_predicts_and_rows_do_not_meet(name: str) -> None:
    config = CONFIGS[name]
    torch.manual_seed(0)
    unet = UNet2D(config).eval()
    for weight in unet.parameters():  # as after training: nothing is zero or one
        torch.nn.init.normal_(weight, std=0.2)
    x = torch.randn(6, config.in_channels, *config.latent_size)
    t = torch.tensor([0, 1.25, 500, 998.7, 999, 3.5])
    classes = [torch.tensor([0, 1, 2, 3, 0, 1])] if config.num_class_embeds else []
    with torch.inference_mode():
        expected = unet(x, t, *classes).numpy()
    times = torch.stack(list(map(Denoiser(unet, Classes()).time_embedding, t.tolist())))
    inputs = [x, times, *classes]
    run = Compiled(Winograd(unet, config.latent_size))
    six = run(*inputs)
    np.testing.assert_allclose(six, expected, atol=3e-5 * np.abs(expected).max())
    two = run(*(tensor[2:4] for tensor in inputs))
    assert np.array_equal(two, six[2:4]), "bits, in another batch and place"
    with_nan = inputs[0].clone()
    with_nan[[0, 5]] = torch.nan
    assert np.array_equal(run(with_nan, *inputs[1:])[1:5], six[1:5])


@pytest.mark.parametrize(
    "change",
    [
        {"resnet_time_scale_shift": "scale_shift"},
        {"center_input_sample": True},
        {"sample_size": (8, 16)},
        {"sample_size": 32},
        {"downsample_padding": 0},
    ],
)
def test_what_it_has_no_form_for_is_refused(change: dict[str, Any]) -> None:
    config: UNet2DConfig = dataclasses.replace(UNET, **change)
    with pytest.raises(ValueError, match=r"form|latents are|padding"):
        Winograd(UNet2D(config), config.latent_size)


def test_a_time_embedding_is_that_of_its_timestep_however_many_were_seen(
    tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for eight: what is made anew takes the place of no row of the same tick."""
    monkeypatch.setattr(openvino, "_TIMESTEPS", 8)
    times = openvino._Times(tiny.denoiser)
    for ticks in range(50):
        wanted = (torch.arange(ticks, ticks + 5) * 0.37 % 7).tolist()
        expected = torch.stack([tiny.denoiser.time_embedding(one) for one in wanted])
        assert torch.equal(times(wanted), expected)
