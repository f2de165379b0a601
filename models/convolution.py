"""Convolutions on a GPU whose bits do not depend on how many rows the batch has.

cuDNN chooses its kernel by the shape of the batch, and kernels differ in their order of summation.
Here every output is summed in one order, which the layer alone decides: over taps and channels, in
blocks, in float32; long sums in a fixed number of parts, which are then added in order.

An implicit matrix product, as in Chetlur et al. 2014, "cuDNN", sec. 3. Pixels lie in one line, with
a zero between rows and a row of zeros between images. So a tap of the filter reads the same line,
moved by a constant, and its tiles are plain rectangles, which the GPU can fetch on its own. With a
stride of two there are four lines, of even and odd rows and columns. Written in Triton, which comes
with PyTorch for CUDA.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_ALIGNED = 16  # bytes; rows of a tensor that the GPU fetches by tiles
_FILL = 120  # tiles that keep a large GPU busy
_FEW_ROWS = 2  # a guided image: the batch that has to fill it
_MOST_PARTS, _LEAST_BLOCKS = 8, 12  # of a sum, and of each part of it
_ADDED = 1024  # sums that one block of threads adds up
_KEPT = 1024  # bytes of shared memory for the compiler's own use
_PLAIN = "count rows pitch out_height out_width stride kernel blocks blocks_per_part"  # numbers


@triton.jit(do_not_specialize=_PLAIN.split())  # type: ignore[untyped-decorator]
def _convolve(  # type: ignore[no-untyped-def]
    lines, weights, bias, out, parts,
    count, rows, pitch, out_height, out_width, stride, kernel, blocks, blocks_per_part,
    channels, filters,
    split: tl.constexpr, precision: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """A tile: block_m places of a line by block_n filters. Beyond the lines are zeros."""
    first_place, first_filter = tl.program_id(0) * block_m, tl.program_id(1) * block_n
    part = tl.program_id(2)
    first = part * blocks_per_part
    last = tl.minimum(first + blocks_per_part, kernel * kernel * blocks)
    total = tl.zeros((block_m, block_n), dtype=tl.float32)
    for block in range(first, last):
        tap = block // blocks
        channel = (block - tap * blocks) * block_k
        down, across = tap // kernel, tap % kernel
        moved = first_place + down // stride * pitch + across // stride
        moved += (down % stride * stride + across % stride) * count
        a = lines.load([moved, channel])
        b = weights.load([first_filter, tap * channels + channel])
        total = tl.dot(a, b.T, total, input_precision=precision)
    place = first_place + tl.arange(0, block_m)
    image, rest = place // (rows * pitch), place % (rows * pitch)
    row, column = rest // pitch, rest % pitch
    kept = (place < count) & (row < out_height) & (column < out_width)
    pixel = (image * out_height + row) * out_width + column
    filt = first_filter + tl.arange(0, block_n)
    mask = kept[:, None] & (filt < filters)[None, :]
    where = pixel[:, None].to(tl.int64) * filters + filt[None, :]
    if split:
        images = count // (rows * pitch)
        size = images.to(tl.int64) * out_height * out_width * filters
        tl.store(parts + part * size + where, total, mask)
    else:
        if bias is not None:
            total += tl.load(bias + filt, filt < filters, 0.0)[None, :].to(tl.float32)
        tl.store(out + where, total.to(out.dtype.element_ty), mask)


@triton.jit  # type: ignore[untyped-decorator]
def _add(parts, bias, out, size, filters, number: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """The parts of sums, in order, and the bias."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = place < size
    total = tl.zeros((block,), dtype=tl.float32)
    for part in tl.static_range(number):
        total += tl.load(parts + part * size + place, mask, 0.0)
    if bias is not None:
        total += tl.load(bias + place % filters, mask, 0.0).to(tl.float32)
    tl.store(out + place, total.to(out.dtype.element_ty), mask)


@dataclass(frozen=True)
class Tile:
    """What one block of threads computes at a time, and how it does."""

    places: int
    filters: int
    channels: int
    warps: int
    stages: int  # of loads that are under way
    precision: str = "ieee"  # of products

    def bytes(self, dtype: torch.dtype) -> int:
        """Shared memory that it takes."""
        return self.stages * (self.places + self.filters) * self.channels * dtype.itemsize


_HALF_TILES = (
    Tile(128, 256, 64, warps=8, stages=4),
    Tile(128, 128, 64, warps=4, stages=4),
    Tile(128, 128, 64, warps=4, stages=3),
    Tile(128, 64, 64, warps=4, stages=4),
    Tile(64, 64, 64, warps=4, stages=3),
)
_TF32_TILES = (Tile(64, 64, 32, 4, 4, "tf32"), Tile(64, 64, 32, 4, 2, "tf32"))
_FULL_TILES = (Tile(64, 64, 16, 4, 3),)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """A convolution with square filters.

    Args:
        x: (B, C, H, W), in float16, bfloat16 or float32.
        weight: (F, C, k, k), of the same dtype.
        bias: (F,), or none.
        stride: on both axes.
        padding: zeros on all sides, 0 or 1.

    Returns:
        (B, F, H', W'), channels last in memory.
    """
    made: Tensor = torch.ops.darkroom.convolve(x, weight, bias, stride, padding)
    return made


def _convolve_by_layer(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    tf32 = torch.backends.cudnn.allow_tf32
    tile = choose_tile(x.dtype, len(weight), _shared_memory(x.device), tf32)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        return convolve_by(tile, x, weight, bias, stride, padding)


def convolve_by(
    tile: Tile, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int
) -> Tensor:
    """As `convolve`, tile by tile."""
    batch, channels, height, width = x.shape
    filters, _, kernel, _ = weight.shape
    out = _like(x, weight, stride, padding)
    out_height, out_width = out.shape[2:]
    beyond = (kernel - 1) // stride if stride > 1 else 0  # one line ends where another begins
    rows = max(triton.cdiv(height + padding, stride), out_height + beyond)
    pitch = max(triton.cdiv(width + padding, stride), out_width + beyond)
    lack = -channels % (_ALIGNED // x.element_size())
    channels += lack
    lines = _lines(x, stride, padding, rows, pitch, channels)
    flat = weight.permute(0, 2, 3, 1)
    flat = (F.pad(flat, (0, lack)) if lack else flat).reshape(filters, -1)
    count, blocks = batch * rows * pitch, triton.cdiv(channels, tile.channels)
    across = triton.cdiv(filters, tile.filters)
    steps = kernel * kernel * blocks
    tiles = triton.cdiv(_FEW_ROWS * rows * pitch, tile.places) * across
    each = triton.cdiv(steps, max(min(_FILL // tiles, steps // _LEAST_BLOCKS, _MOST_PARTS), 1))
    split = triton.cdiv(steps, each)
    parts = x.new_empty((split if split > 1 else 0) * out.numel(), dtype=torch.float32)
    _convolve[(triton.cdiv(count, tile.places), across, split)](
        TensorDescriptor.from_tensor(lines, [tile.places, tile.channels]),
        TensorDescriptor.from_tensor(flat, [tile.filters, tile.channels]),
        bias, out, parts,
        count, rows, pitch, out_height, out_width, stride, kernel, blocks, each,
        channels, filters,
        split=split > 1, precision=tile.precision,
        block_m=tile.places, block_n=tile.filters, block_k=tile.channels,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if split > 1:
        grid = (triton.cdiv(out.numel(), _ADDED),)
        _add[grid](parts, bias, out, out.numel(), filters, number=split, block=_ADDED)
    return out


def project(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer, (..., C) -> (..., F), by `weight` (F, C) and `bias` (F,), or none."""
    pixels = x.reshape(-1, x.shape[-1], 1, 1)
    made: Tensor = convolve(pixels, weight[:, :, None, None], bias, 1, 0)
    return made.view(*x.shape[:-1], len(weight))


@cache
def choose_tile(dtype: torch.dtype, filters: int, room: int, tf32: bool) -> Tile:
    """The tile of a layer whatever the batch, by measurements on an H100.

    The first that fits into so many bytes of shared memory.
    """
    fits: Sequence[Tile] = _TF32_TILES if tf32 else _FULL_TILES
    if dtype != torch.float32:
        fits = _HALF_TILES[(0 if filters % 256 == 0 else 1 if filters > 64 else 3) :]
    return next((tile for tile in fits if tile.bytes(dtype) <= room), fits[-1])


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block of threads may have."""
    if device.type != "cuda":  # Triton's interpreter
        return sys.maxsize
    known = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return int(known["max_shared_mem"]) - _KEPT


def _like(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Room for the result."""
    lost = 2 * padding - weight.shape[2]
    height, width = ((side + lost) // stride + 1 for side in x.shape[2:])
    shape = x.shape[0], weight.shape[0], height, width
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _lines(x: Tensor, stride: int, padding: int, rows: int, pitch: int, channels: int) -> Tensor:
    """All pixels, (stride * stride * B * rows * pitch, channels).

    One line for each remainder of row and column by the stride. `padding` zeros are above and to
    the left of an image; those of the next image, and of the next row, are below and to the right.
    """
    batch, given, height, width = x.shape
    if (rows, pitch, channels) == (height, width, given):
        return x.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
    lines = x.new_zeros(stride, stride, batch, rows, pitch, channels)
    for down, across in itertools.product(range(stride), repeat=2):
        top, left = (down - padding) % stride, (across - padding) % stride
        pixels = x[:, :, top::stride, left::stride].permute(0, 2, 3, 1)
        row, column = (top + padding) // stride, (left + padding) // stride
        part = lines[down, across, :, row:, column:, :given]
        part[:, : pixels.shape[1], : pixels.shape[2]] = pixels
    return lines.view(-1, channels)


# An operator, so that compilers take it as it is.
_library = torch.library.Library("darkroom", "DEF")
_library.define(
    "convolve(Tensor x, Tensor weight, Tensor? bias, int stride, int padding) -> Tensor"
)
_library.impl("convolve", _convolve_by_layer, "CompositeExplicitAutograd")
torch.library.register_fake("darkroom::convolve", lambda x, w, _, *how: _like(x, w, *how))
