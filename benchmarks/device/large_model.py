"""A model of Stable Diffusion 1.5's shape without its weights, as far as UNet2DModel has it.

It has no cross-attention, as there are no prompts; its self-attention is where theirs is.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device.findings import Setting
from benchmarks.device.precision import Precision
from models.checkpoint import Checkpoint
from models.conditioning import Classes
from models.config import AutoencoderKLConfig, DDIMConfig, UNet2DConfig
from models.pipeline import LatentDiffusion
from models.unet import UNet2D
from models.vae import AutoencoderKL

_UNET = UNet2DConfig(
    sample_size=64,
    in_channels=4,
    out_channels=4,
    block_out_channels=(320, 640, 1280, 1280),
    down_block_types=("AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D"),
    attention_head_dim=64,
)
_SMALL_UNET = UNet2DConfig(
    sample_size=8,
    in_channels=4,
    out_channels=4,
    block_out_channels=(32, 64),
    down_block_types=("AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D"),
    attention_head_dim=8,
)
_SCHEDULE = DDIMConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


_VAE = AutoencoderKLConfig(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=4,
)
_SMALL_VAE = AutoencoderKLConfig(
    block_out_channels=(32, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
)


def _config(setting: Setting) -> UNet2DConfig:
    return _SMALL_UNET if setting.small else _UNET


def shape_of(setting: Setting) -> tuple[int, int, int]:
    """(C, h, w) of a latent."""
    config = _config(setting)
    return config.in_channels, *config.latent_size


def large_unet(setting: Setting, precision: Precision, device: str | None = None) -> UNet2D:
    """The UNet, with the random weights that layers begin with."""
    precision.use()
    torch.manual_seed(0)
    with torch.device(device or setting.on):
        return UNet2D(_config(setting)).requires_grad_(False).eval().to(precision.dtype)


def large_model(setting: Setting, precision: Precision) -> LatentDiffusion:
    """The whole model, for the engine; it has no classes."""
    unet, config = large_unet(setting, precision), _SMALL_VAE if setting.small else _VAE
    with torch.device(setting.on):
        vae = AutoencoderKL(config).requires_grad_(False).eval().to(precision.dtype)
    return LatentDiffusion(Checkpoint(vae, unet, _SCHEDULE, Classes(), 1.0), tf32=precision.tf32)


def inputs_of(setting: Setting, precision: Precision, size: int) -> tuple[Tensor, Tensor]:
    """Latents and timesteps of so many rows."""
    x = torch.randn(size, *shape_of(setting), device=setting.on, dtype=precision.dtype)
    return x, torch.arange(size, device=setting.on) * 11 % 1000


@cache
def flops_per_row(setting: Setting) -> float:
    """Floating-point operations of one row; attention counts as the products it is made of."""
    with torch.device("meta"):
        unet = UNet2D(_config(setting))
        inputs = torch.empty(1, *shape_of(setting)), torch.zeros(1, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        unet(*inputs)
    return float(counter.get_total_flops())
