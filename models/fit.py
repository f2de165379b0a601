"""Whether the parts of a model fit each other, and what they draw, by configurations alone."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from models.conditioning import Classes
from models.config import (
    MAX_POSITIONS,
    AutoencoderKLConfig,
    ConfigError,
    UNet2DConditionConfig,
    UNet2DConfig,
    UNetConfig,
    check_positions,
)
from models.index import INDEX
from models.parts import SCHEDULE, Parts, TextPart
from models.schedule import alpha_bars
from models.schedulers import SchedulerConfig
from models.sizes import MAX_SIDE, Sizes
from models.tiles import tile_side

_FAINTEST = 1e-30  # an alpha-bar whose inverse is a float32 still


@dataclass(frozen=True)
class Fit:
    """What parts that fit each other draw."""

    classes: Classes
    sizes: Sizes
    notes: tuple[str, ...]  # lines for the user: what was ignored, or assumed

    @classmethod
    def of(cls, parts: Parts) -> "Fit":
        """Check the parts against each other.

        Raises:
            ConfigError: they do not fit, or nothing can be drawn by them; the message names the
                file and the key.
        """
        _check_schedule(parts.schedule_path, parts.schedule)
        unet, vae, index = parts.unet.config, parts.vae.config, parts.index
        try:
            _check_latents(unet, vae)
            _check_texts(unet, parts.texts)
        except ValueError as error:
            raise ConfigError(f"{parts.unet.source}: {error}") from error
        try:
            sizes = sizes_of(unet, vae, index.sides)
        except ValueError as error:
            raise ConfigError(f"{parts.index_path}: {error}") from error
        try:
            classes, notes = _classes(index.classes, unet)
        except ValueError as error:
            raise ConfigError(f"{parts.index_path}: id2label: {error}") from error
        return cls(
            classes, sizes, (*notes, *_remarks(parts.schedule), *_distilled(parts), *parts.notes)
        )


def sizes_of(unet: UNetConfig, vae: AutoencoderKLConfig, sides: tuple[int, int] | None) -> Sizes:
    """The sizes of images that a model may be asked for; raises `ValueError`."""
    height, width = (side * vae.downscale for side in unet.latent_size)
    step = vae.downscale * 2 ** (len(unet.block_out_channels) - 1)
    if sides is None:
        texts = isinstance(unet, UNet2DConditionConfig)
        return _sizes_of_texts(unet, vae, step) if texts else Sizes(width, height)
    least, most = sides
    if not least <= min(width, height) <= max(width, height) <= most or least % step or most % step:
        raise ValueError(
            f"image_sides is {list(sides)}; allowed: two multiples of {step}, with the model's own "
            f"{width}x{height} between them"
        )
    largest = most // vae.downscale
    for level in unet.attending[:1]:
        check_positions(f"up to {largest}", largest**2 // 4**level)
    if vae.mid_block_add_attention:
        check_positions(f"up to {largest}", min(largest, tile_side(vae)) ** 2)
    return Sizes(width, height, step=step, least=least, most=most)


def _check_schedule(path: Path, schedule: SchedulerConfig) -> None:
    """Check that steps are finite: they divide by 1 - alpha-bar and, for epsilon, by it."""
    prediction = schedule.own.prediction_type
    alpha_bar = alpha_bars(schedule.own)[:-1]
    low, high = alpha_bar.min().item(), alpha_bar.max().item()
    if not (0 <= low <= high < 1 and (low or prediction != "epsilon")):
        raise ConfigError(
            f"{path}: num_train_timesteps and betas give alpha-bars from {low:g} to {high:g}; "
            f"allowed with prediction_type {prediction!r}: "
            f"{'above 0' if prediction == 'epsilon' else 'from 0'}, below 1"
        )
    exact = alpha_bars(schedule.own, torch.float64)[:-1]
    if not ((exact.diff() < 0).all() and (exact[:-1] >= _FAINTEST).all()):
        raise ConfigError(
            f"{path}: num_train_timesteps and betas give neighbours one alpha-bar, or one below "
            f"{_FAINTEST:g} before the last; allowed: each above that, and below the one before"
        )


def _remarks(schedule: SchedulerConfig) -> list[str]:
    """What a schedule does that users of another sampler may not expect."""
    remarks, own = [], schedule.own
    if math.isfinite(own.clip):  # latents have a variance of 1; images were meant
        limit = f"{own.clip:g}"
        remarks.append(
            f"clip_sample is true: predicted latents are kept within -{limit} to {limit}"
        )
    if own.timestep_spacing == "linspace" and schedule.sampler in ("ddim", "pndm"):  # schedule.py
        remarks.append("timestep_spacing is linspace: steps differ a little from diffusers")
    return [f"{SCHEDULE}: {remark}" for remark in remarks]


def _distilled(parts: Parts) -> list[str]:
    config = parts.unet.config
    if not (isinstance(config, UNet2DConditionConfig) and config.distilled):
        return []
    scale = f"{parts.index.guidance_scale:g}"
    return [
        f"{parts.unet.source.name}: time_cond_proj_dim: guidance was distilled into the UNet; "
        f"its scale is {scale} (guidance_scale in {INDEX}), and requests cannot change it"
    ]


def _classes(names: tuple[str, ...], unet: UNetConfig) -> tuple[Classes, tuple[str, ...]]:
    """The classes, by number if they have no names; raises `ValueError`."""
    rows = unet.num_class_embeds if isinstance(unet, UNet2DConfig) else None
    if names or not rows:
        return Classes.of(names, rows), ()
    note = (
        f"{INDEX}: id2label is missing: classes are called 0 to {rows - 1}, none is the null class"
    )
    return Classes.of(tuple(map(str, range(rows))), rows), (note,)


def _check_latents(unet: UNetConfig, vae: AutoencoderKLConfig) -> None:
    """Check that the VAE decodes the UNet's latents; raises `ValueError`."""
    latent = vae.latent_channels
    if (unet.in_channels, unet.out_channels) == (2 * latent + 1, latent):
        raise ValueError(
            f"in_channels {unet.in_channels}: a UNet for inpainting, which cannot be drawn by "
            f"yet: it reads a picture and a mask besides; allowed: {latent}, for prompts alone"
        )
    if (unet.in_channels, unet.out_channels) != (latent, latent):
        raise ValueError(
            f"in_channels {unet.in_channels} and out_channels {unet.out_channels}; "
            f"the VAE has latent_channels {latent}"
        )
    if unet.sample_size is None:
        raise ValueError("sample_size is missing")
    if vae.mid_block_add_attention:
        check_positions(unet.sample_size, min(math.prod(unet.latent_size), tile_side(vae) ** 2))
    if (side := max(unet.latent_size) * vae.downscale) > MAX_SIDE:
        raise ValueError(
            f"sample_size is {unet.sample_size}, which makes images with a side of {side} pixels; "
            f"allowed: up to {MAX_SIDE}"
        )


def _check_texts(unet: UNetConfig, texts: tuple[TextPart, ...]) -> None:
    """Check that the text encoders make what the UNet reads; raises `ValueError`."""
    if not isinstance(unet, UNet2DConditionConfig):
        return
    width = sum(text.config.hidden_size for text in texts)
    if unet.cross_attention_dim != width:
        raise ValueError(
            f"cross_attention_dim is {unet.cross_attention_dim}; the text encoders make {width}"
        )
    pooled = sum(text.config.projection_dim or 0 for text in texts if text.projected)
    if unet.pooled_dim != pooled:
        raise ValueError(
            f"projection_class_embeddings_input_dim is for pooled texts of {unet.pooled_dim}; the "
            f"text encoders make {pooled}"
        )


def _sizes_of_texts(unet: UNetConfig, vae: AutoencoderKLConfig, step: int) -> Sizes:
    """Those that such networks are used for: from half of the own size to twice as much."""
    height, width = (side * vae.downscale for side in unet.latent_size)
    least = -(-min(height, width) // (2 * step)) * step
    most = min(2 * max(height, width), MAX_SIDE) // step * step
    positions = [4**level * MAX_POSITIONS for level in unet.attending[:1]]
    if vae.mid_block_add_attention and tile_side(vae) ** 2 > MAX_POSITIONS:  # of a tile
        positions.append(MAX_POSITIONS)
    pixels = min([*(count * vae.downscale**2 for count in positions), most**2])
    return Sizes(width, height, step=step, least=least, most=most, pixels=pixels)
