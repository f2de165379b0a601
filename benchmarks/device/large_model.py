"""A model of Stable Diffusion 1.5's shape without its weights, as far as UNet2DModel has it.

It has no cross-attention, as there are no prompts; its self-attention is where theirs is.
"""

from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device.findings import Setting
from benchmarks.device.precision import Precision
from models.checkpoint import Checkpoint
from models.conditioning import Classes
from models.config import AutoencoderKLConfig, DDIMConfig, UNet2DConfig
from models.pipeline import LatentDiffusion
from models.schedulers import SchedulerConfig
from models.unet import UNet2D
from models.vae import AutoencoderKL

Network = TypeVar("Network", bound=nn.Module)

_SPREAD = 0.02  # of the weights, a standard deviation
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
_SCHEDULE = SchedulerConfig.of(
    DDIMConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
)


VAE = AutoencoderKLConfig(
    block_out_channels=(128, 256, 512, 512),
    layers_per_block=2,
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    latent_channels=4,
)
SMALL_VAE = AutoencoderKLConfig(
    block_out_channels=(32, 32),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
)


def config_of(setting: Setting) -> UNet2DConfig:
    """Of the UNet."""
    return _SMALL_UNET if setting.small else _UNET


def shape_of(setting: Setting) -> tuple[int, int, int]:
    """(C, h, w) of a latent."""
    config = config_of(setting)
    return config.in_channels, *config.latent_size


@torch.inference_mode(mode=False)  # weights are plain tensors, as in a worker
def filled(network: Network, setting: Setting, precision: Precision) -> Network:
    """A network of the meta device, with random weights: always the same."""
    precision.use()
    torch.manual_seed(0)
    network.requires_grad_(False).eval()
    drawn = {
        name: torch.randn(meta.shape, device=setting.on, dtype=precision.dtype) * _SPREAD
        for name, meta in network.state_dict().items()
    }
    network.load_state_dict(drawn, assign=True)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def large_unet(setting: Setting, precision: Precision) -> UNet2D:
    """Our UNet."""
    with torch.device("meta"):
        unet = UNet2D(config_of(setting))
    return filled(unet, setting, precision)


def large_model(setting: Setting, precision: Precision) -> LatentDiffusion:
    """The whole model, for the engine; it has no classes."""
    with torch.device("meta"):
        vae = AutoencoderKL(SMALL_VAE if setting.small else VAE)
    unet, vae = large_unet(setting, precision), filled(vae, setting, precision)
    return LatentDiffusion(Checkpoint(vae, unet, _SCHEDULE, Classes(), 1.0), tf32=precision.tf32)


def inputs_of(setting: Setting, precision: Precision, size: int) -> tuple[Tensor, Tensor]:
    """Latents and timesteps of so many rows."""
    x = torch.randn(size, *shape_of(setting), device=setting.on, dtype=precision.dtype)
    return x, torch.arange(size, device=setting.on) * 11 % 1000


@cache
def flops_per_row(setting: Setting) -> float:
    """Floating-point operations of one row; attention counts as the products it is made of."""
    with torch.device("meta"):
        unet = UNet2D(config_of(setting))
        inputs = torch.empty(1, *shape_of(setting)), torch.zeros(1, dtype=torch.int64)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        unet(*inputs)
    return float(counter.get_total_flops())
