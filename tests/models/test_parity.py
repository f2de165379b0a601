"""Our networks and sampler against diffusers', with the same random weights."""

import inspect
from dataclasses import fields, replace
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from models.config import (
    AutoencoderKLConfig,
    Config,
    DDIMConfig,
    UNet2DConditionConfig,
    UNet2DConfig,
)
from models.schedule import alpha_bars
from models.scheduler_classes import (
    DPMSolverConfig,
    EulerAncestralConfig,
    EulerConfig,
    HeunConfig,
    LCMConfig,
    LMSConfig,
    PNDMConfig,
    UniPCConfig,
)
from models.unet import UNet2D
from models.vae import AutoencoderKL
from tests.tiny import SCHEDULE, UNET, VAE

TOLERANCE = 1e-5  # relative, in float32


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def keywords(config: Config) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (AutoencoderKLConfig, diffusers.AutoencoderKL),
        (UNet2DConfig, diffusers.UNet2DModel),
        (UNet2DConditionConfig, diffusers.UNet2DConditionModel),
        (DDIMConfig, diffusers.DDIMScheduler),
        (EulerConfig, diffusers.EulerDiscreteScheduler),
        (EulerAncestralConfig, diffusers.EulerAncestralDiscreteScheduler),
        (DPMSolverConfig, diffusers.DPMSolverMultistepScheduler),
        (UniPCConfig, diffusers.UniPCMultistepScheduler),
        (LCMConfig, diffusers.LCMScheduler),
    ],
)
def test_configurations_have_the_keys_and_defaults_of_diffusers(
    config: type[Config], theirs: Any
) -> None:
    expected = {
        name: parameter.default
        for name, parameter in inspect.signature(theirs.__init__).parameters.items()
        if name != "self"
    }
    assert keywords(config()) == {**expected, **CHANGED.get(config, {})}


CHANGED: dict[type[Config], dict[str, Any]] = {UniPCConfig: {"disable_corrector": ()}}


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (PNDMConfig, diffusers.PNDMScheduler),
        (LMSConfig, diffusers.LMSDiscreteScheduler),
        (HeunConfig, diffusers.HeunDiscreteScheduler),
    ],
)
def test_zero_terminal_snr_is_a_key_of_every_class(config: type[Config], theirs: Any) -> None:
    """It is of the network, so that these samplers have to know it as well."""
    parameters = inspect.signature(theirs.__init__).parameters
    expected = {name: parameters[name].default for name in parameters if name != "self"}
    ours = {field.name: field.default for field in fields(config)}
    assert ours == {**expected, "rescale_betas_zero_snr": False}


VAES = {
    "as shipped": {},
    "three levels, two layers": {
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "block_out_channels": (8, 16, 16),
        "layers_per_block": 2,
    },
    "colour": {"in_channels": 3, "out_channels": 3, "latent_channels": 4},
    "no quant convs": {"use_quant_conv": False, "use_post_quant_conv": False},
    "no attention": {"mid_block_add_attention": False},
}


@pytest.mark.parametrize("change", VAES.values(), ids=VAES.keys())
def test_vae(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = replace(VAE, **change)
    theirs = diffusers.AutoencoderKL(**keywords(config)).eval()
    ours = AutoencoderKL(config).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(3, config.in_channels, 32, 32) * 2 - 1
    with torch.inference_mode():
        posterior, expected = ours.encode(images), theirs.encode(images).latent_dist
        assert relative(posterior.mean, expected.mean) <= TOLERANCE
        assert relative(posterior.logvar, expected.logvar) <= TOLERANCE
        assert relative(posterior.kl(), expected.kl()) <= TOLERANCE
        latents = torch.randn_like(expected.mean)
        assert relative(ours.decode(latents), theirs.decode(latents).sample) <= TOLERANCE


@pytest.mark.parametrize(
    "change",
    [
        {"scaling_factor": 0.18215},
        {"scaling_factor": 1.5305, "shift_factor": 0.0609},
        {"scaling_factor": 0.5, "latents_mean": (0.1, -0.4), "latents_std": (2.0, 0.7)},
    ],
)
def test_scale_and_shift_are_applied_inside(change: dict[str, Any]) -> None:
    """As diffusers' pipelines apply them outside: (z - shift) * scale, and back."""
    torch.manual_seed(0)
    config = replace(VAE, **change)
    scaled, raw = AutoencoderKL(config).eval(), AutoencoderKL(VAE).eval()
    raw.load_state_dict(scaled.state_dict())
    shift = torch.tensor(config.latents_mean or config.shift_factor or 0.0).view(1, -1, 1, 1)
    scale = config.scaling_factor / torch.tensor(config.latents_std or 1.0).view(1, -1, 1, 1)
    images = torch.rand(2, 1, 16, 16) * 2 - 1
    with torch.inference_mode():
        posterior, plain = scaled.encode(images), raw.encode(images)
        torch.testing.assert_close(posterior.mean, (plain.mean - shift) * scale)
        std = torch.exp(0.5 * plain.logvar) * scale
        torch.testing.assert_close(torch.exp(0.5 * posterior.logvar), std)
        torch.testing.assert_close(scaled.decode(posterior.mean), raw.decode(plain.mean))


UNETS = {
    "as tiny": {},
    "unconditional": {"num_class_embeds": None},
    "two layers": {"layers_per_block": 2},
    "one head": {"attention_head_dim": None},
    "scale and shift": {"resnet_time_scale_shift": "scale_shift"},
    "scale and shift, mid norm": {
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 8,
    },
    "mid scale": {"mid_block_scale_factor": 1.4142},
    "no mid attention": {"add_attention": False},
    "no mid block": {"mid_block_type": None},
    "sines first": {"flip_sin_to_cos": False, "freq_shift": 1},
    "asymmetric padding": {"downsample_padding": 0},
    "centred input": {"center_input_sample": True},
    "wide embedding": {"time_embedding_dim": 48, "norm_eps": 1e-6},
    "three levels": {
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "block_out_channels": (16, 32, 48),
        "layers_per_block": 2,
    },
}


@pytest.mark.parametrize("change", UNETS.values(), ids=UNETS.keys())
def test_unet(change: dict[str, Any]) -> None:
    torch.manual_seed(0)
    config = replace(UNET, **change)
    theirs = diffusers.UNet2DModel(**keywords(config)).eval()
    ours = UNet2D(config).eval()
    ours.load_state_dict(theirs.state_dict())
    x, t = torch.randn(4, 2, 8, 8), torch.tensor([0, 17, 500, 999])
    labels = torch.tensor([0, 1, 2, 3]) if config.num_class_embeds else None
    with torch.inference_mode():
        expected = theirs(x, t, class_labels=labels).sample
        assert relative(ours(x, t, labels), expected) <= TOLERANCE


SCHEDULES = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "scaled linear": {"beta_schedule": "scaled_linear"},
    "squared cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": tuple(0.0001 + 0.00002 * i for i in range(1000))},
}


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("change", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_alpha_bars(change: dict[str, Any], zero_snr: bool) -> None:
    config = replace(SCHEDULE, rescale_betas_zero_snr=zero_snr, **change)
    values = keywords(config)
    if config.trained_betas is not None:
        values["trained_betas"] = list(config.trained_betas)
    theirs = diffusers.DDIMScheduler(**values)
    torch.testing.assert_close(alpha_bars(config)[:-1], theirs.alphas_cumprod, rtol=1e-6, atol=0)
