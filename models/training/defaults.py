"""What a recipe leaves out: networks and the length of their training, for two CPU cores.

Chosen by the size and the number of the images. Up to 500 of them train in three minutes for each
network, more take longer, up to half an hour. Rates were measured on two Zen 4 cores.
"""

import math
from typing import Any

Table = dict[str, Any]
_MANY = 2_000  # images from which on larger latents and networks pay
_FEW, _MINUTES, _MOST_MINUTES = 500, 3.0, 30.0
_PIXELS_PER_SECOND = 280_000  # through the autoencoder, forward and back
_LATENTS_PER_SECOND = 340 * 8 * 8  # positions, through a UNet of 64 and 128 channels
_WIDTHS = (16, 32, 64, 64, 64)  # of the autoencoder, by level
_UNET_WIDTH, _HEAD, _GROUPS = 64, 32, 8


def choose_vae(size: int, images: int) -> Table:
    """An autoencoder whose latents have 8 x 8 or 16 x 16 positions (32 x 32 from 512 pixels on).

    Raises:
        ValueError: images of this size do not halve as often as that needs.
    """
    halvings = 4 if size > 128 else 3 if size > 64 or (size > 32 and images < _MANY) else 2
    step = 2**halvings
    if size % step:
        below, above = max(size // step * step, step), (size // step + 1) * step
        near = f"{below} or {above}" if below != above else f"{below}"
        raise ValueError(
            f"size is {size}; allowed where [vae] is left out: multiples of {step}, as {near}"
        )
    return {
        "block_out_channels": list(_WIDTHS[: halvings + 1]),
        "layers_per_block": 1,
        "latent_channels": 4 if halvings < 4 else 8,
        "norm_num_groups": _GROUPS,
    }


def choose_unet(side: int, channels: int, images: int) -> Table:
    """A UNet for latents of `side` x `side` positions, with attention at every level."""
    width = _unet_width(channels, images)
    levels = 3 if side >= 32 and side % 4 == 0 else 2 if side % 2 == 0 else 1
    return {
        "block_out_channels": [width, 2 * width, 2 * width][:levels],
        "layers_per_block": 1,
        "attention_head_dim": _HEAD,
        "norm_num_groups": _GROUPS,
    }


def choose_scheduler() -> Table:
    """Nichol & Dhariwal's cosine with zero-terminal SNR and v, as Lin et al. 2024 have it."""
    return {
        "beta_schedule": "squaredcos_cap_v2",
        "rescale_betas_zero_snr": True,
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "clip_sample": False,
    }


def choose_vae_training(size: int, images: int) -> Table:
    """As many images as two cores take through the chosen autoencoder in the time."""
    seen = _seconds(images) * _PIXELS_PER_SECOND / size**2
    small = images < _MANY or size > 128
    return _training(min(max(seen, 4_000), 240_000), 16 if small else 64)


def choose_diffusion_training(side: int, channels: int, images: int) -> Table:
    """As many images as two cores take through the chosen UNet in the time."""
    cost = side**2 * (_unet_width(channels, images) / _UNET_WIDTH) ** 2
    seen = _seconds(images) * _LATENTS_PER_SECOND / cost
    return _training(min(max(seen, 20_000), 800_000), 32 if images < _MANY else 128)


def _training(seen: float, batch: int) -> Table:
    rounded = int(float(f"{seen:.2g}"))
    return {
        "images": rounded,
        "batch_size": batch,
        "warmup_steps": min(200, rounded // batch // 20),
    }


def _seconds(images: int) -> float:
    return 60 * min(_MINUTES * math.sqrt(max(1.0, images / _FEW)), _MOST_MINUTES)


def _unet_width(channels: int, images: int) -> int:
    return _UNET_WIDTH if images < _MANY or channels == 1 else _UNET_WIDTH * 3 // 2
