"""Our convolutions beside cuDNN's, in whole UNets and with other tiles, and our group norm."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, FLOAT32, TF32, Precision
from benchmarks.device.prompt_models import FAMILIES, Family, flops_per_row, unet_and_inputs
from benchmarks.device.timing import Call, graphed, speed, timed
from models import layers
from models.layers import GroupNorm, LayerNorm, attend, gate

_NEEDS = 3.0  # seconds for one network or layer
_SECONDS, _REPEATS = 0.03, 3  # of each measurement of a layer or operator
_SIZES = (1, 2, 16)  # rows
_SEEN = 32  # of the rows of pixels, which are compared with a sum in float64
# Channels, filters, side, stride: of Stable Diffusion 1.5 and SDXL; of the digits; of a decoder.
_LARGE = (
    (320, 320, 64, 1),
    (960, 320, 64, 1),
    (320, 320, 64, 2),
    (640, 640, 32, 1),
    (1280, 1280, 16, 1),
    (2560, 1280, 8, 1),
    (512, 512, 128, 1),
)
_SMALL = ((64, 64, 8, 1), (256, 128, 4, 1))
_DECODER = ((128, 128, 1024, 1), (512, 512, 256, 1))
# Places, filters, channels, warps, stages.
_HALF_TILES = (
    (256, 128, 64, 8, 4),
    (128, 256, 64, 8, 4),
    (128, 128, 64, 4, 4),
    (128, 128, 64, 4, 3),
    (256, 64, 64, 4, 4),
    (128, 64, 64, 4, 4),
)
_FULL_TILES = ((64, 64, 16, 4, 3), (128, 64, 16, 8, 3))
_TF32_TILES = ((256, 128, 32, 8, 4), (128, 128, 32, 8, 4), (64, 64, 32, 4, 4))
# Rows, channels, side: of Stable Diffusion 1.5, and of its decoder.
_MAPS = ((2, 320, 64), (16, 320, 64), (2, 1280, 16), (16, 1280, 16), (1, 128, 512))


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    ours: Any = layers.convolution
    if ours is None:
        findings.miss("Layers", "all", "Triton is not installed")
        return
    unets(findings, setting, _SIZES)
    for rows, channels, side in _MAPS:
        labels: Row = {"rows": rows, "channels": channels, "side": side}
        findings.attempt("Operators, ms", labels, _NEEDS, operators, setting, rows, channels, side)
    labels = {"tokens": 128**2, "channels": 512}
    findings.attempt("Attention of a decoder", labels, _NEEDS, attention, setting)
    for precision, shapes, tiles, sizes in (
        (FLOAT16, _LARGE, _HALF_TILES, (2, 16)),
        (TF32, _DECODER, _TF32_TILES, (1,)),
        (FLOAT32, _DECODER, _FULL_TILES, (1,)),
        (FLOAT32, _SMALL, _FULL_TILES, (2, 256)),
        (TF32, _SMALL, _TF32_TILES, (2, 256)),
    ):
        product = "tf32" if precision.tf32 else "ieee"
        named = {" ".join(map(str, tile)): ours.Tile(*tile, product) for tile in tiles}
        for layer in shapes:
            for rows in sizes:
                labels = {"precision": precision.name, "layer": " ".join(map(str, layer))}
                given = setting, precision, layer, rows, named
                table = f"TFLOP/s of layers, {precision.name}"
                findings.attempt(table, labels | {"rows": rows}, _NEEDS, one, *given)
    layers.convolution = None
    try:
        unets(findings, setting, _SIZES[1:])
    finally:
        layers.convolution = ours


def unets(findings: Findings, setting: Setting, sizes: tuple[int, ...]) -> None:
    name = "ours" if layers.convolution else "PyTorch's"
    for family in FAMILIES:
        labels: Row = {"model": family.name, "kernels": name}
        findings.attempt("UNets", labels, _NEEDS, whole, setting, family, sizes)


def whole(setting: Setting, family: Family, sizes: tuple[int, ...]) -> Iterator[Row]:
    """The UNet alone, and whether rows are the same bits as among sixteen."""
    torch.manual_seed(0)
    unet, inputs = unet_and_inputs(family, setting, FLOAT16, _SIZES[-1])
    most = unet(*inputs)
    for size in sizes:
        fewer = [None if value is None else value[:size].clone() for value in inputs]
        equal = torch.equal(unet(*fewer), most[:size])
        taken = timed(graphed(partial(unet, *fewer)), 0.15, _REPEATS)
        yield speed(size, taken, flops_per_row(family, setting)) | {"same bits": equal}


def operators(setting: Setting, rows: int, channels: int, side: int) -> Iterator[Row]:
    """Group norm with SiLU, and the layer norm and gate of a transformer: ours, and PyTorch's."""
    FLOAT16.use()
    draw = partial(torch.randn, device=setting.on, dtype=FLOAT16.dtype)
    x = draw(rows, channels, side, side).to(memory_format=torch.channels_last)
    norm = GroupNorm(32, channels).to(x)
    tokens, wide = (draw(rows, side**2, times * channels) for times in (1, 8))
    rows_norm = LayerNorm(channels).to(x)
    ours, cells = layers.convolution, dict[str, float]()
    for name, module in (("ours", ours), ("PyTorch", None)):
        layers.convolution = module
        try:
            cells[f"norm and SiLU, {name}"] = milliseconds(partial(norm, x, silu=True))
            cells[f"sum and layer norm, {name}"] = milliseconds(
                partial(rows_norm.added, tokens, tokens)
            )
            cells[f"gate, {name}"] = milliseconds(partial(gate, wide))
        finally:
            layers.convolution = ours
    yield dict(cells)


def attention(setting: Setting) -> Iterator[Row]:
    """That of SDXL's decoder at 1024 x 1024, which is PyTorch's."""
    for precision in (FLOAT32, FLOAT16):
        precision.use()
        tokens = torch.randn(1, 128**2, 512, device=setting.on, dtype=precision.dtype)
        taken = milliseconds(partial(attend, tokens, tokens, tokens, 1))
        yield {"precision": precision.name, "ms": taken}


def milliseconds(call: Call) -> float:
    return round(timed(graphed(call), _SECONDS, _REPEATS) * 1000, 4)


def one(
    setting: Setting,
    precision: Precision,
    layer: tuple[int, int, int, int],
    rows: int,
    tiles: Mapping[str, Any],
) -> Iterator[Row]:
    """TFLOP/s of one layer; and how far off it is where that is more than rounding."""
    precision.use()
    channels, filters, side, stride = layer
    draw = partial(torch.randn, device=setting.on, dtype=precision.dtype)
    x = draw(rows, channels, side, side).to(memory_format=torch.channels_last)
    weight = draw(filters, channels, 3, 3).to(memory_format=torch.channels_last)
    weight /= (9 * channels) ** 0.5
    bias = draw(filters)
    flops = 2 * 9 * channels * filters * (side // stride) ** 2 * rows
    expected = exact(x[:1, :, :_SEEN], weight, bias, stride)
    ways: dict[str, Any] = {"cuDNN": partial(F.conv2d, x, weight, bias, stride, 1)}
    for name, tile in tiles.items():
        given = tile, x, weight, bias, stride, (1, 1)
        ways[name] = partial(layers.convolution.convolve_by, *given)
    cells: Row = {}
    for name, call in ways.items():
        try:
            made = call()[:1, :, : expected.shape[2]]
            off = (made - expected).abs().max().item()
            rate = flops / timed(graphed(call), _SECONDS, _REPEATS) / 1e12
            cells[name] = f"{rate:.3g}" + (f", off {off:.2g}" if off > 0.02 else "")
        except Exception as error:  # too large for the device, say
            cells[name] = type(error).__name__
    yield cells


def exact(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """The first rows of the result, in float64; the last of them would read more than `x` has."""
    made = F.conv2d(x.double(), weight.double(), bias.double(), stride, 1)
    return made[:, :, :-1]
