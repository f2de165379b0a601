"""Convolutions on a GPU whose bits do not depend on how many rows the batch has.

cuDNN chooses its kernel by the shape of the batch, and kernels differ in their order of summation.
Here every output is summed in one order, which the layer alone decides: over taps and channels, in
blocks, in float32; long sums in a fixed number of parts, which are then added in order.

An implicit matrix product, as in Chetlur et al. 2014, "cuDNN", sec. 3. A tile is a box of images,
rows and columns. A tap of the filter reads the same box, moved; the GPU fetches boxes on its own,
with zeros for what lies outside the image. With a stride of two, the parity of rows is an axis of
its own, and columns of one parity are further channels of the other's. Written in Triton, which
comes with PyTorch for CUDA.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

_ALIGNED = 16  # bytes; rows of a tensor that the GPU fetches by tiles
_FILL = 120  # tiles that keep a large GPU busy
_FEW_ROWS = 2  # a guided image: the batch that has to fill it
_BATCHES = (_FEW_ROWS, 16, 256)  # that a box has to suit
_MOST_PARTS, _LEAST_BLOCKS = 8, 12  # of a sum, and of each part of it
_ADDED = 1024  # sums that one block of threads adds up
_WIDE = 128  # pixels of a map of which a guided image fills a tile of twice as many places
_LARGE = 32 * 32  # pixels of a map whose tiles fill a GPU though they are large
_KEPT = 1024  # bytes of shared memory for the compiler's own use
_PLAIN = "batch out_height out_width stride padding kernel blocks blocks_per_part"  # numbers


@triton.jit(do_not_specialize=_PLAIN.split())  # type: ignore[untyped-decorator]
def _convolve(  # type: ignore[no-untyped-def]
    pixels, weights, bias, more, out, parts,
    batch, out_height, out_width, stride, padding, kernel, blocks, blocks_per_part,
    channels, filters,
    split: tl.constexpr, precision: tl.constexpr,
    images: tl.constexpr, rows: tl.constexpr, columns: tl.constexpr,
    block_n: tl.constexpr, block_k: tl.constexpr,
):  # fmt: skip
    """A tile: images by rows by columns of the result, by block_n filters.

    Filters are the left factor: only a right one stays in shared memory if its shape is changed.
    """
    block_m: tl.constexpr = images * rows * columns
    boxes_across = tl.cdiv(out_width, columns)
    boxes_down = tl.cdiv(out_height, rows)
    box = tl.program_id(0)
    first_column = box % boxes_across * columns
    first_row = box // boxes_across % boxes_down * rows
    first_image = box // boxes_across // boxes_down * images
    first_filter = tl.program_id(1) * block_n
    part = tl.program_id(2)
    first = part * blocks_per_part
    last = tl.minimum(first + blocks_per_part, kernel * kernel * blocks)
    lifted = padding * (stride - 1)  # division rounds towards zero: of nothing negative
    total = tl.zeros((block_n, block_m), dtype=tl.float32)
    for block in range(first, last):
        tap = block // blocks
        channel = (block - tap * blocks) * block_k
        down, across = tap // kernel + lifted, tap % kernel + lifted
        row = first_row + down // stride - padding
        column = first_column + across // stride - padding
        among = across % stride * channels + channel
        a = weights.load([first_filter, tap * channels + channel])
        b = pixels.load([first_image, row, down % stride, column, among])
        b = b.reshape(block_m, block_k)
        total = tl.dot(a, b.T, total, input_precision=precision)
    total = total.T
    place = tl.arange(0, block_m)
    image = first_image + place // (rows * columns)
    row, column = first_row + place // columns % rows, first_column + place % columns
    kept = (image < batch) & (row < out_height) & (column < out_width)
    pixel = (image * out_height + row) * out_width + column
    filt = first_filter + tl.arange(0, block_n)
    mask = kept[:, None] & (filt < filters)[None, :]
    where = pixel[:, None].to(tl.int64) * filters + filt[None, :]
    if split:
        size = batch.to(tl.int64) * out_height * out_width * filters
        tl.store(parts + part * size + where, total, mask)
    else:
        if bias is not None:
            total += tl.load(bias + filt, filt < filters, 0.0)[None, :].to(tl.float32)
        if more is not None:
            total += tl.load(more + where, mask, 0.0).to(tl.float32)
        tl.store(out + where, total.to(out.dtype.element_ty), mask)


@triton.jit  # type: ignore[untyped-decorator]
def _add(  # type: ignore[no-untyped-def]
    parts, bias, more, out, size, filters, number: tl.constexpr, block: tl.constexpr
):
    """The parts of sums, in order, the bias, and what else there is."""
    place = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    mask = place < size
    total = tl.zeros((block,), dtype=tl.float32)
    for part in tl.static_range(number):
        total += tl.load(parts + part * size + place, mask, 0.0)
    if bias is not None:
        total += tl.load(bias + place % filters, mask, 0.0).to(tl.float32)
    if more is not None:
        total += tl.load(more + place, mask, 0.0).to(tl.float32)
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


# Large ones, for what limits them is how fast the L2 cache answers.
_HALF_TILES = (
    Tile(256, 128, 64, warps=8, stages=4),
    Tile(128, 128, 64, warps=4, stages=4),
    Tile(128, 128, 64, warps=4, stages=3),
    Tile(128, 64, 64, warps=4, stages=4),
    Tile(64, 64, 64, warps=4, stages=3),
)
_TF32_TILES = (
    Tile(256, 128, 32, 8, 4, "tf32"),
    Tile(128, 128, 32, 8, 4, "tf32"),
    Tile(64, 64, 32, 4, 4, "tf32"),
    Tile(64, 64, 32, 4, 2, "tf32"),
)
_FULL_TILES = (Tile(64, 64, 16, 4, 3),)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    more: Tensor | None = None,
    *,
    tf32: bool = False,
) -> Tensor:
    """A convolution with square filters.

    Args:
        x: (B, C, H, W), in float16, bfloat16 or float32.
        weight: (F, C, k, k), of the same dtype.
        bias: (F,), or none.
        stride: on both axes.
        padding: zeros above and to the left, and below and to the right.
        more: (B, F, H', W'), added to the result before it is rounded; or none.
        tf32: round factors of float32 to ten bits of mantissa; where the process does, it is done
            anyway.

    Returns:
        (B, F, H', W'), channels last in memory.
    """
    made: Tensor = torch.ops.darkroom.convolve(x, weight, bias, stride, padding, more, tf32)
    return made


def _convolve_by_layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    more: Tensor | None,
    tf32: bool,
) -> Tensor:
    tf32 |= torch.backends.cudnn.allow_tf32
    area = x.shape[2] * x.shape[3] // stride**2
    tile = choose_tile(x.dtype, area, len(weight), _shared_memory(x.device), tf32)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        return convolve_by(tile, x, weight, bias, stride, padding, more)


def convolve_by(
    tile: Tile,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: Sequence[int],
    more: Tensor | None = None,
) -> Tensor:
    """As `convolve`, tile by tile."""
    filters, _, kernel, _ = weight.shape
    out = _like(x, weight, stride, padding)
    height, width = out.shape[2:]
    images, rows, columns = choose_box(tile.places, height, width)
    # One tap's blocks of channels may reach into the next one's where they read zeros of `x`.
    multiple = tile.channels if stride > 1 else _ALIGNED // x.element_size()
    pixels, weight = _pixels(x, stride, multiple), _channels_last(weight, multiple)
    batch, channels = len(x), weight.shape[3]
    boxes = triton.cdiv(height, rows) * triton.cdiv(width, columns)
    blocks, across = triton.cdiv(channels, tile.channels), triton.cdiv(filters, tile.filters)
    steps = kernel * kernel * blocks
    tiles = boxes * triton.cdiv(_FEW_ROWS, images) * across
    each = triton.cdiv(steps, max(min(_FILL // tiles, steps // _LEAST_BLOCKS, _MOST_PARTS), 1))
    split = triton.cdiv(steps, each)
    if more is not None:
        more = more.contiguous(memory_format=torch.channels_last)
    parts = x.new_empty((split if split > 1 else 0) * out.numel(), dtype=torch.float32)
    _convolve[(boxes * triton.cdiv(batch, images), across, split)](
        _described(pixels, [images, rows, 1, columns, tile.channels]),
        _described(weight.flatten(1), [tile.filters, tile.channels]),
        bias, more, out, parts,
        batch, height, width, stride, padding[0], kernel, blocks, each,
        channels, filters,
        split=split > 1, precision=tile.precision,
        images=images, rows=rows, columns=columns,
        block_n=tile.filters, block_k=tile.channels,
        num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    if split > 1:
        grid = (triton.cdiv(out.numel(), _ADDED),)
        _add[grid](parts, bias, more, out, out.numel(), filters, number=split, block=_ADDED)
    return out


def project(x: Tensor, weight: Tensor, bias: Tensor | None, tf32: bool = False) -> Tensor:
    """A linear layer, (B, ..., C) -> (B, ..., F), by `weight` (F, C) and `bias` (F,), or none."""
    pixels = x.reshape(len(x), -1, 1, x.shape[-1]).permute(0, 3, 1, 2)
    made: Tensor = convolve(pixels, weight[:, :, None, None], bias, 1, (0, 0), tf32=tf32)
    return made.permute(0, 2, 3, 1).reshape(*x.shape[:-1], len(weight))


@cache
def choose_tile(dtype: torch.dtype, area: int, filters: int, room: int, tf32: bool) -> Tile:
    """The tile of a layer whatever the batch, by measurements on an H100.

    The first that fits into so many bytes of shared memory; `area` is of the map, in pixels.
    """
    if dtype != torch.float32:
        wide = 0 if area >= _WIDE else 1
        fits: Sequence[Tile] = _HALF_TILES[(wide if filters > 64 else 3) :]
    elif tf32:
        fits = _TF32_TILES[(0 if filters > 64 and area >= _LARGE else 2) :]
    else:
        fits = _FULL_TILES
    return next((tile for tile in fits if tile.bytes(dtype) <= room), fits[-1])


@cache
def choose_box(places: int, height: int, width: int) -> tuple[int, int, int]:
    """Images, rows and columns of a tile: those that waste least of it, for a map of that size."""
    sides = [1 << power for power in range(places.bit_length())]
    shapes = [
        (places // (rows * columns), rows, columns)
        for rows, columns in product(sides, sides)
        if rows * columns <= places
    ]

    def waste(shape: tuple[int, int, int]) -> tuple[float, int, int]:
        images, rows, columns = shape
        area = triton.cdiv(height, rows) * rows * triton.cdiv(width, columns) * columns
        work = sum(area * triton.cdiv(batch, images) * images / batch for batch in _BATCHES)
        return work, images, rows + columns  # squares share most of what they read

    return min(shapes, key=waste)


@cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block of threads may have."""
    if device.type != "cuda":  # Triton's interpreter
        return sys.maxsize
    known = triton.runtime.driver.active.utils.get_device_properties(device.index)
    return int(known["max_shared_mem"]) - _KEPT


def _like(x: Tensor, weight: Tensor, stride: int, padding: Sequence[int]) -> Tensor:
    """Room for the result."""
    lost = sum(padding) - weight.shape[2]
    height, width = ((side + lost) // stride + 1 for side in x.shape[2:])
    shape = x.shape[0], weight.shape[0], height, width
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _channels_last(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C'), with zeros up to a multiple of channels."""
    last = x.permute(0, 2, 3, 1)
    lack = -x.shape[1] % multiple
    return (F.pad(last, (0, lack)) if lack else last).contiguous()


def _pixels(x: Tensor, stride: int, multiple: int) -> Tensor:
    """(B, C, H, W) -> (B, H' / stride, stride, W' / stride, stride * C'), with zeros as needed."""
    lacks = [-side % stride for side in x.shape[2:]]
    last = _channels_last(F.pad(x, (0, lacks[1], 0, lacks[0])) if any(lacks) else x, multiple)
    batch, height, width, channels = last.shape
    return last.view(batch, height // stride, stride, width // stride, stride * channels)


def _described(x: Tensor, block: list[int]) -> Any:
    """How the GPU fetches blocks of a contiguous tensor; axes of one element have any stride."""
    sizes = list(x.shape)
    strides = [1]
    for size in sizes[:0:-1]:
        strides.insert(0, strides[0] * size)
    return TensorDescriptor(x, sizes, strides, block)


# An operator, so that compilers take it as it is.
_library = torch.library.Library("darkroom", "FRAGMENT")
_library.define(
    "convolve(Tensor x, Tensor weight, Tensor? bias, int stride, int[2] padding,"
    " Tensor? more, bool tf32) -> Tensor"
)
_library.impl("convolve", _convolve_by_layer, "CompositeExplicitAutograd")
torch.library.register_fake("darkroom::convolve", lambda x, w, _, *how: _like(x, w, *how[:2]))
