"""Our convolutions beside cuDNN's: in whole UNets, and layer by layer with other tiles."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, FLOAT32, TF32, Precision
from benchmarks.device.prompt_models import FAMILIES, Family, flops_per_row, unet_and_inputs
from benchmarks.device.timing import graphed, speed, timed
from models import layers

_NEEDS = 3.0  # seconds for one network or layer
_SECONDS = 0.03  # of each measurement of a layer
_SIZES = (1, 2, 4, 8, 16)  # rows
# Channels, filters, side, stride: of Stable Diffusion 1.5 and SDXL; and of the digits.
_LARGE = (
    (320, 320, 64, 1),
    (960, 320, 64, 1),
    (320, 320, 64, 2),
    (640, 640, 32, 1),
    (1280, 1280, 16, 1),
    (2560, 1280, 8, 1),
    (320, 320, 128, 1),
    (512, 512, 128, 1),
)
_SMALL = ((64, 64, 8, 1), (256, 128, 4, 1))
# Places, filters, channels, warps, stages.
_HALF_TILES = (
    (128, 256, 64, 8, 3),
    (128, 256, 64, 8, 4),
    (128, 128, 64, 8, 4),
    (128, 128, 64, 8, 3),
    (128, 128, 64, 4, 4),
    (128, 64, 64, 4, 4),
    (64, 64, 64, 4, 4),
)
_FULL_TILES = (
    (64, 64, 16, 4, 3),
    (64, 64, 32, 8, 2),
    (128, 64, 16, 8, 3),
    (32, 64, 32, 4, 3),
    (32, 32, 32, 4, 3),
)
_TF32_TILES = ((64, 64, 32, 4, 4), (128, 64, 32, 4, 4), (64, 32, 32, 4, 4), (128, 128, 32, 8, 3))


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    ours: Any = layers.convolution
    if ours is None:
        findings.miss("Layers", "all", "Triton is not installed")
        return
    for family in FAMILIES:
        for name, module, sizes in (("ours", ours, _SIZES), ("cuDNN", None, (2, 16))):
            labels: Row = {"model": family.name, "by": name}
            layers.convolution = module
            findings.attempt("UNets", labels, _NEEDS, whole, setting, family, sizes)
    layers.convolution = ours
    for precision, shapes, tiles in (
        (FLOAT16, _LARGE, _HALF_TILES),
        (FLOAT32, _SMALL, _FULL_TILES),
        (TF32, _SMALL, _TF32_TILES),
    ):
        product = "tf32" if precision.tf32 else "ieee"
        named = {" ".join(map(str, tile)): ours.Tile(*tile, product) for tile in tiles}
        for layer in shapes:
            for rows in (2, 16) if precision is FLOAT16 else (2, 256):
                labels = {"precision": precision.name, "layer": " ".join(map(str, layer))}
                given = setting, precision, layer, rows, named
                table = f"TFLOP/s of layers, {precision.name}"
                findings.attempt(table, labels | {"rows": rows}, _NEEDS, one, *given)


def whole(setting: Setting, family: Family, sizes: tuple[int, ...]) -> Iterator[Row]:
    """The UNet alone, and whether rows are the same bits as among sixteen."""
    torch.manual_seed(0)
    unet, inputs = unet_and_inputs(family, setting, FLOAT16, _SIZES[-1])
    most = unet(*inputs)
    for size in sizes:
        fewer = [None if value is None else value[:size].clone() for value in inputs]
        equal = torch.equal(unet(*fewer), most[:size])
        taken = timed(graphed(partial(unet, *fewer)), 0.3)
        yield speed(size, taken, flops_per_row(family, setting)) | {"same bits": equal}


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
    expected = F.conv2d(x[:1].double(), weight.double(), bias.double(), stride, 1)
    ways: dict[str, Any] = {"cuDNN": partial(F.conv2d, x, weight, bias, stride, 1)}
    for name, tile in tiles.items():
        ways[name] = partial(layers.convolution.convolve_by, tile, x, weight, bias, stride, 1)
    cells: Row = {}
    for name, call in ways.items():
        try:
            off = (call()[:1].double() - expected).abs().max().item()
            rate = flops / timed(graphed(call), _SECONDS, 3) / 1e12
            cells[name] = f"{rate:.3g}" + (f", off {off:.2g}" if off > 0.02 else "")
        except Exception as error:  # too large for the device, say
            cells[name] = type(error).__name__
    yield cells
