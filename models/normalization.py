"""Normalization on a GPU, of tensors whose channels are last, with what goes before and after it.

PyTorch's group norm copies such tensors to another layout and back. As in `models.convolution`, the
layer alone decides the order of every sum. Those of a group norm are means and squared deviations
of each channel in chunks of pixels, which are then combined as in Chan, Golub & LeVeque 1983,
eq. 2.1, all in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS, _CHANNELS = 64, 64  # of a block of threads
_MOST_CHUNKS = 256  # of an image: blocks enough for a large GPU
_ROWS = 4  # of a block of threads that norms each one


@triton.jit(do_not_specialize=["pixels", "blocks"])  # type: ignore[untyped-decorator]
def _moments(  # type: ignore[no-untyped-def]
    x, parts, pixels, channels, blocks, block_p: tl.constexpr, block_c: tl.constexpr
):
    """Mean and sum of squared deviations of each channel in a chunk, which is some blocks."""
    chunk, image = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    mean = tl.zeros((block_c,), dtype=tl.float32)
    squares = tl.zeros((block_c,), dtype=tl.float32)
    count = 0.0
    first = chunk * blocks * block_p
    for start in range(first, tl.minimum(first + blocks * block_p, pixels), block_p):
        pixel = start + tl.arange(0, block_p)
        mask = (pixel < pixels)[:, None] & (channel < channels)[None, :]
        where = (image * pixels + pixel)[:, None] * channels + channel[None, :]
        value = tl.load(x + where, mask, 0.0).to(tl.float32)
        more = tl.minimum(pixels - start, block_p).to(tl.float32)
        its_mean = tl.sum(value, 0) / more
        off = tl.where(mask, value - its_mean[None, :], 0.0)
        share = more / (count + more)
        delta = its_mean - mean
        mean += delta * share
        squares += tl.sum(off * off, 0) + delta * delta * (count * share)
        count += more
    row = (image * tl.num_programs(0) + chunk) * 2 * channels
    tl.store(parts + row + channel, mean, channel < channels)
    tl.store(parts + row + channels + channel, squares, channel < channels)


@triton.jit(do_not_specialize=["pixels", "chunks", "chunk_pixels", "width"])  # type: ignore[untyped-decorator]
def _combine(  # type: ignore[no-untyped-def]
    parts, weight, bias, added, modulation, factors,
    pixels, channels, chunks, chunk_pixels, width, eps,
    block_k: tl.constexpr, block_g: tl.constexpr,
):  # fmt: skip
    """Factor and term of each channel of a group, of `width` channels."""
    group, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    place = tl.arange(0, block_g)
    channel, mine = group * width + place, place < width
    chunk = tl.arange(0, block_k)
    mask = (chunk < chunks)[:, None] & mine[None, :]
    where = (image * chunks + chunk)[:, None] * 2 * channels + channel[None, :]
    means = tl.load(parts + where, mask, 0.0)
    squares = tl.load(parts + where + channels, mask, 0.0)
    counts = tl.minimum(pixels - chunk * chunk_pixels, chunk_pixels).to(tl.float32)[:, None]
    number = pixels.to(tl.float32) * width
    shift = tl.zeros((block_g,), dtype=tl.float32)
    if added is not None:
        shift = tl.load(added + image * channels + channel, mine, 0.0).to(tl.float32)
    means += shift[None, :]
    mean = tl.sum(tl.sum(tl.where(mask, means * counts, 0.0), 1), 0) / number
    off = means - mean
    squares = tl.where(mask, squares + off * off * counts, 0.0)
    variance = tl.sum(tl.sum(squares, 1), 0) / number
    factor = tl.load(weight + channel, mine, 0.0).to(tl.float32) / tl.sqrt(variance + eps)
    term = tl.load(bias + channel, mine, 0.0).to(tl.float32) + (shift - mean) * factor
    if modulation is not None:
        row = modulation + image * 2 * channels + channel
        scale = 1 + tl.load(row, mine, 0.0).to(tl.float32)
        factor *= scale
        term = term * scale + tl.load(row + channels, mine, 0.0).to(tl.float32)
    row = factors + image * 2 * channels + channel
    tl.store(row, factor, mine)
    tl.store(row + channels, term, mine)


@triton.jit(do_not_specialize=["pixels"])  # type: ignore[untyped-decorator]
def _apply(  # type: ignore[no-untyped-def]
    x, factors, out, pixels, channels,
    silu: tl.constexpr, block_p: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * block_p + tl.arange(0, block_p)
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    row = factors + image * 2 * channels + channel
    factor = tl.load(row, channel < channels, 0.0)
    term = tl.load(row + channels, channel < channels, 0.0)
    mask = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    where = (image * pixels + pixel)[:, None] * channels + channel[None, :]
    value = tl.load(x + where, mask, 0.0).to(tl.float32) * factor[None, :] + term[None, :]
    if silu:
        value = value / (1 + tl.exp(-value))
    tl.store(out + where, value.to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _norm_rows(  # type: ignore[no-untyped-def]
    x, added, weight, bias, sums, out, rows, channels, eps,
    block_r: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * block_r + tl.arange(0, block_r)
    channel = tl.arange(0, block_c)
    mine = channel < channels
    mask = (row < rows)[:, None] & mine[None, :]
    where = row[:, None] * channels + channel[None, :]
    value = tl.load(x + where, mask, 0.0).to(tl.float32)
    if added is not None:
        value += tl.load(added + where, mask, 0.0).to(tl.float32)
        value = value.to(out.dtype.element_ty)  # what is stored is normed
        tl.store(sums + where, value, mask)
        value = value.to(tl.float32)
    off = tl.where(mask, value - (tl.sum(value, 1) / channels)[:, None], 0.0)
    off *= (1 / tl.sqrt(tl.sum(off * off, 1) / channels + eps))[:, None]
    factor = tl.load(weight + channel, mine, 0.0).to(tl.float32)
    term = tl.load(bias + channel, mine, 0.0).to(tl.float32)
    normed = off * factor[None, :] + term[None, :]
    tl.store(out + where, normed.to(out.dtype.element_ty), mask)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool = False,
    added: Tensor | None = None,
    modulation: Tensor | None = None,
) -> Tensor:
    """Group normalization, and what goes before and after it. Wu & He 2018.

    Args:
        x: (B, C, H, W), in float16, bfloat16 or float32.
        groups: a divisor of C.
        weight, bias: (C,).
        eps: added to variances.
        silu: apply SiLU to the result.
        added: (B, C), a term of all pixels of `x`.
        modulation: (B, 2 * C): scales s and shifts t; what is normed is multiplied by 1 + s, and t
            is added. Before SiLU.

    Returns:
        As `x`, channels last in memory.
    """
    made: Tensor = torch.ops.darkroom.group_norm(
        x, groups, weight, bias, eps, silu, added, modulation
    )
    return made


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    silu: bool,
    added: Tensor | None,
    modulation: Tensor | None,
) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out = _like(x)
    batch, channels, height, width = x.shape
    pixels, width = height * width, channels // groups
    block_p = min(triton.next_power_of_2(pixels), _PIXELS)
    across, down = triton.cdiv(channels, _CHANNELS), triton.cdiv(pixels, block_p)
    blocks = triton.cdiv(down, _MOST_CHUNKS)
    chunks = triton.cdiv(down, blocks)
    parts = x.new_empty(batch * chunks * 2 * channels, dtype=torch.float32)
    factors = x.new_empty(batch * 2 * channels, dtype=torch.float32)
    added = None if added is None else added.contiguous()
    modulation = None if modulation is None else modulation.contiguous()
    sizes = {"block_p": block_p, "block_c": _CHANNELS}
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _moments[(chunks, across, batch)](x, parts, pixels, channels, blocks, **sizes)
        _combine[(groups, batch)](
            parts, weight, bias, added, modulation, factors,
            pixels, channels, chunks, blocks * block_p, width, eps,
            block_k=triton.next_power_of_2(chunks), block_g=triton.next_power_of_2(width),
        )  # fmt: skip
        _apply[(down, across, batch)](x, factors, out, pixels, channels, silu=silu, **sizes)
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer normalization of rows, (..., C), by `weight` and `bias`, (C,). Ba et al. 2016."""
    made: Tensor = torch.ops.darkroom.layer_norm(x, weight, bias, eps)
    return made


def add_norm(
    x: Tensor, added: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum of `x` and `added`, (..., C), and its layer normalization."""
    summed, normed = torch.ops.darkroom.add_norm(x, added, weight, bias, eps)
    return summed, normed


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _by_rows(x, None, weight, bias, eps)[1]


def _by_rows(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    added = None if added is None else added.contiguous()
    channels = x.shape[-1]
    rows = x.numel() // channels
    sums, out = torch.empty_like(x if added is not None else x[:0]), torch.empty_like(x)
    with torch.cuda.device_of(x):
        _norm_rows[(triton.cdiv(rows, _ROWS),)](
            x, added, weight, bias, sums, out, rows, channels, eps,
            block_r=_ROWS, block_c=triton.next_power_of_2(channels),
        )  # fmt: skip
    return sums, out


def _like(x: Tensor) -> Tensor:
    """Room for a result."""
    return torch.empty_like(x, memory_format=torch.channels_last)


# Operators, so that compilers take them as they are.
_library = torch.library.Library("darkroom", "FRAGMENT")
_library.define(
    "group_norm(Tensor x, int groups, Tensor weight, Tensor bias, float eps, bool silu,"
    " Tensor? added, Tensor? modulation) -> Tensor"
)
_library.impl("group_norm", _group_norm, "CompositeExplicitAutograd")
torch.library.register_fake("darkroom::group_norm", lambda x, *_: _like(x))
_library.define("layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor")
_library.impl("layer_norm", _layer_norm, "CompositeExplicitAutograd")
torch.library.register_fake("darkroom::layer_norm", lambda x, *_: x.new_empty(x.shape))
_library.define(
    "add_norm(Tensor x, Tensor added, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)"
)
_library.impl("add_norm", _by_rows, "CompositeExplicitAutograd")
torch.library.register_fake(
    "darkroom::add_norm", lambda x, *_: (x.new_empty(x.shape), x.new_empty(x.shape))
)
