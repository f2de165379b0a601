"""What a GPU does element by element between layers, where PyTorch's passes are slow or several.

There are no sums here. Written in Triton, as `models.convolution` is.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_GATED = {"block_r": 8, "block_c": 256}  # rows and columns of a block of threads
_DOUBLED = {"block_p": 64, "block_c": 64}  # pixels and channels


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator]
def _gate(x, out, rows, width, block_r: tl.constexpr, block_c: tl.constexpr):  # type: ignore[no-untyped-def]
    """The first half of each row by the GELU of the second."""
    row = tl.program_id(0).to(tl.int64) * block_r + tl.arange(0, block_r)
    place = tl.program_id(1) * block_c + tl.arange(0, block_c)
    mask = (row < rows)[:, None] & (place < width)[None, :]
    where = row[:, None] * 2 * width + place[None, :]
    value = tl.load(x + where, mask, 0.0).to(tl.float32)
    gate = tl.load(x + where + width, mask, 0.0).to(tl.float32)
    gate *= 0.5 * (1 + tl.erf(gate * 0.7071067811865476))  # 1 / sqrt(2)
    where = row[:, None] * width + place[None, :]
    tl.store(out + where, (value * gate).to(out.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["pixels", "width"])  # type: ignore[untyped-decorator]
def _double(  # type: ignore[no-untyped-def]
    x, out, pixels, width, channels, block_p: tl.constexpr, block_c: tl.constexpr
):
    """Pixels of an image twice as wide and high as one of `width`."""
    image = tl.program_id(2).to(tl.int64)
    pixel = tl.program_id(0) * block_p + tl.arange(0, block_p)
    channel = tl.program_id(1) * block_c + tl.arange(0, block_c)
    mask = (pixel < pixels)[:, None] & (channel < channels)[None, :]
    source = pixel // (2 * width) // 2 * width + pixel % (2 * width) // 2
    source = image * (pixels // 4) + source
    value = tl.load(x + source[:, None] * channels + channel[None, :], mask)
    where = (image * pixels + pixel)[:, None] * channels + channel[None, :]
    tl.store(out + where, value, mask)


def gate(x: Tensor) -> Tensor:
    """(..., 2 * D) -> (..., D): the first half times the GELU of the second. Shazeer 2020."""
    made: Tensor = torch.ops.darkroom.gate(x)
    return made


def _gate_rows(x: Tensor) -> Tensor:
    x = x.contiguous()
    out = _half(x)
    width = out.shape[-1]
    rows = out.numel() // width
    grid = triton.cdiv(rows, _GATED["block_r"]), triton.cdiv(width, _GATED["block_c"])
    with torch.cuda.device_of(x):  # Triton launches on the current device
        _gate[grid](x, out, rows, width, **_GATED)
    return out


def double(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 2H, 2W), channels last in memory: every pixel four times."""
    made: Tensor = torch.ops.darkroom.double(x)
    return made


def _double_map(x: Tensor) -> Tensor:
    x = x.contiguous(memory_format=torch.channels_last)
    out = _larger(x)
    batch, channels, height, width = out.shape
    across = triton.cdiv(channels, _DOUBLED["block_c"])
    grid = triton.cdiv(height * width, _DOUBLED["block_p"]), across, batch
    with torch.cuda.device_of(x):
        _double[grid](x, out, height * width, width // 2, channels, **_DOUBLED)
    return out


def _half(x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], x.shape[-1] // 2)


def _larger(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    shape = batch, channels, 2 * height, 2 * width
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


# Operators, so that compilers take them as they are.
_library = torch.library.Library("darkroom", "FRAGMENT")
_library.define("gate(Tensor x) -> Tensor")
_library.impl("gate", _gate_rows, "CompositeExplicitAutograd")
torch.library.register_fake("darkroom::gate", _half)
_library.define("double(Tensor x) -> Tensor")
_library.impl("double", _double_map, "CompositeExplicitAutograd")
torch.library.register_fake("darkroom::double", _larger)
