"""Decoding large latents in overlapping tiles, so that memory does not grow with the image.

Tiles, overlap and blending are those of diffusers' `AutoencoderKL.tiled_decode`. Every tile has its
own group norm and attention, so its pixels differ a little from those of the whole latent.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.config import AutoencoderKLConfig

# Bytes of the decoder's largest map in float32, for one image: up to here it is decoded whole.
# Stable Diffusion's decoders have 256 channels at full size, so that this is 1024 x 1024 pixels.
LARGEST_MAP = 1 << 30
_BYTES = 4  # float32, whatever the weights are: a size is tiled in every precision or in none
_OVERLAP = 4  # a quarter of a tile


def tile_side(config: AutoencoderKLConfig) -> int:
    """Side of the largest square that is decoded whole, in latent pixels; a multiple of 4.

    It follows from the configuration alone, so that a model's pixels at a size are always the same.
    """
    widths = config.block_out_channels
    values = max(  # level i works on what comes up from level i + 1, after it has been doubled
        max(widths[i : i + 2]) * config.downscale**2 // 4**i for i in range(len(widths))
    )
    return max(math.isqrt(LARGEST_MAP // (_BYTES * values)) // _OVERLAP, 1) * _OVERLAP


def whole(area: int, side: int) -> bool:
    """Whether a latent of `area` pixels is decoded whole; `side` is that of `tile_side`."""
    return area <= side**2


def spans(length: int, side: int) -> list[tuple[int, int]]:
    """Where the tiles along a side of `length` latent pixels begin, and how long each is."""
    step = side - side // _OVERLAP
    return [(begin, min(side, length - begin)) for begin in range(0, length, step)]


def decode_in_tiles(
    decode: Callable[[Tensor], Tensor], z: Tensor, side: int, factor: int
) -> Tensor:
    """Decode a latent by tiles, or whole if it is small enough.

    A tile begins 3/4 `side` after the one before. Along the n pixels that it shares with the tile a
    above or to the left of it, tile b becomes (1 - k/n) a_k + (k/n) b_k, k = 0 .. n-1: first from
    above, then from the left. a has been blended before.

    Args:
        decode: (B, c, h, w) -> (B, C, h * factor, w * factor), for any h and w.
        z: (B, c, H, W). Its rows never meet.
        side: of a tile, in latent pixels; a multiple of 4.
        factor: image pixels to one latent pixel, along a side.

    Returns:
        (B, C, H * factor, W * factor).
    """
    height, width = int(z.shape[2]), int(z.shape[3])
    if whole(height * width, side):
        return decode(z)
    shared = side // _OVERLAP * factor
    step = side - side // _OVERLAP
    strips, above = [], list[Tensor]()
    for y, high in spans(height, side):
        row = list[Tensor]()
        for i, (x, wide) in enumerate(spans(width, side)):
            tile = decode(z[:, :, y : y + high, x : x + wide])
            if above:
                tile = _blended(above[i], tile, 2, shared)
            if row:
                tile = _blended(row[-1], tile, 3, shared)
            row.append(tile)
        kept = [tile[:, :, : step * factor, : step * factor] for tile in row]
        strips.append(torch.cat(kept, dim=3))
        above = row
    return torch.cat(strips, dim=2)


def _blended(before: Tensor, tile: Tensor, dim: int, most: int) -> Tensor:
    """`tile`, whose first pixels along `dim` are the last of `before`; `most` of them, or fewer."""
    there, size = int(before.shape[dim]), int(tile.shape[dim])
    n = min(there, size, most)
    a, b = before.narrow(dim, there - n, n), tile.narrow(dim, 0, n)
    weights = (torch.arange(n, device=tile.device) / n).to(tile.dtype)
    weights = weights.view(-1, 1) if dim == 2 else weights
    return torch.cat((a + weights * (b - a), tile.narrow(dim, n, size - n)), dim)
