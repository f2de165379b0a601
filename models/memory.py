"""How much memory a model needs, estimated before any is taken, and how much is available."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from models.config import AutoencoderKLConfig, UNet2DConditionConfig, UNetConfig
from models.files import CheckpointError
from models.machine import free_memory
from models.tiles import tile_side, whole

MAX_PARAMETERS = 10_000_000_000  # of one network; SDXL's UNet has 2.6 of these billions
_BYTES = 4  # activations are counted in float32, whatever the weights are
_ATTENTION_MAPS = 11  # at once: input, norm, queries, keys, values, copies of them, output
# In the feed-forward part: input, norm and residual; two halves, gate and product, four times as
# wide each. That is 19; a heap loses up to as much again between maps of so different sizes.
_TRANSFORMER_MAPS = 38
_TOKENS = 77  # of a text
_BLOCK_BYTES = 1 << 30
# Rows of a block of the plain loop, as in the service; a larger block is faster for many images,
# with other last bits.
BLOCK_ROWS = 16


def parameters(network: nn.Module) -> int:
    """Numbers in a network's weights; it may be on the meta device."""
    return sum(weight.numel() for weight in network.parameters())


def activations(
    unet: UNetConfig,
    vae: AutoencoderKLConfig,
    rows: int,
    latent_size: tuple[int, int] | None = None,
) -> int:
    """Bytes that `rows` images need besides the weights: a rough estimate, rather too high.

    Denoising, decoding, and the fit of the previews follow each other. Attention is counted
    without the matrix of all pairs of positions, which no kernel in use keeps.

    Args:
        unet, vae: the networks.
        rows: images at once.
        latent_size: (height, width) of their latents; the UNet's own if absent.
    """
    area = math.prod(latent_size or unet.latent_size)
    fit = area * (9 * vae.latent_channels + 1) * 2 * _BYTES  # models/preview.py; it is in float64
    return rows * max(denoising(unet, latent_size), decoding(vae, area), fit)


def plain_rows(unet: UNetConfig, vae: AutoencoderKLConfig) -> int:
    """Rows of the blocks that the plain loop runs networks on, unless it is told otherwise.

    `BLOCK_ROWS`, or fewer where their maps would take too much memory and time.
    """
    each = activations(unet, vae, 1)
    return next((rows for rows in (BLOCK_ROWS, 8, 4, 2) if rows * each <= _BLOCK_BYTES), 1)


def denoising(unet: UNetConfig, latent_size: tuple[int, int] | None = None) -> int:
    """Bytes of the maps that the UNet has at once for one row, as `activations` counts them.

    Its text is counted with them, and its keys and values at the widest level.
    """
    wide = [*unet.block_out_channels[:1], *unet.block_out_channels, *unet.block_out_channels[-1:]]
    skipped = [
        max(width, below) + max(width, above)
        for above, width, below in zip(wide, wide[1:], wide[2:], strict=False)
    ]
    text, attending = 0, _ATTENTION_MAPS
    if isinstance(unet, UNet2DConditionConfig):
        text = _TOKENS * (unet.cross_attention_dim + 2 * max(unet.block_out_channels))
        attending = _TRANSFORMER_MAPS
    maps = _values(
        unet.block_out_channels,
        math.prod(latent_size or unet.latent_size),
        stages=2 * unet.layers_per_block + 3,  # down, the middle's two, up
        inputs=[6 * channels for channels in skipped],  # copies, and what they are made of
        attending=dict.fromkeys(unet.attending, attending),
    )
    return _BYTES * (maps + text)


def decoding(vae: AutoencoderKLConfig, area: int) -> int:
    """Bytes of the maps that the decoder has at once for a latent of `area` positions.

    Of a large latent, those of one tile; beside it are two rows of tiles, and the image twice.
    """
    last, side = len(vae.block_out_channels) - 1, tile_side(vae)
    image = 0 if whole(area, side) else 4 * vae.out_channels * area * vae.downscale**2
    maps = _values(
        vae.block_out_channels,
        min(area, side**2) * vae.downscale**2,
        stages=vae.layers_per_block + 1,
        inputs=[4 * max(vae.block_out_channels[i : i + 2]) for i in range(last + 1)],
        attending={last: _ATTENTION_MAPS} if vae.mid_block_add_attention else {},
    )
    return _BYTES * (maps + image)


def _values(
    widths: Sequence[int],
    area: int,
    *,
    stages: int,
    inputs: Sequence[int],
    attending: Mapping[int, int],
) -> int:
    """Numbers in the maps of one row that a network holds at once; level i has area / 4^i.

    Every stage's output is kept, and what comes up from below; the widest level also works on
    copies of its input (norm, SiLU, layout), or on so many maps of attention as `attending` says.
    """
    kept = working = 0
    for i, width in enumerate(widths):
        here = area // 4**i
        kept += (stages * width + max(widths[i : i + 2])) * here
        working = max(working, inputs[i] * here, attending.get(i, 0) * width * here)
    return kept + working


def check_room(source: Path, weights: int, work: int, room: int | None) -> None:
    """Compare bytes of weights and of `activations` with what is `available`.

    Raises:
        CheckpointError: it is too little; the message names `source`, the UNet's configuration.
    """
    if room is not None and weights + work > room:
        need, held, used, there = (
            f"{n / 2**30:.1f}" for n in (weights + work, weights, work, room)
        )
        raise CheckpointError(
            f"{source}: block_out_channels, layers_per_block and sample_size need about {need} GiB "
            f"of memory ({held} for weights, {used} to draw); {there} GiB are available"
        )


def available(device: torch.device) -> int | None:
    """Bytes of available memory on a device; None if the system does not say (not Linux)."""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what PyTorch keeps for later is free
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return free_memory()
