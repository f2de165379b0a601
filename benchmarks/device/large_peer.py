"""diffusers' UNet of Stable Diffusion's size, as PyTorch leaves it, and compiled."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import diffusers
import torch

from benchmarks.device.findings import MINUTES, Findings, Row, Setting
from benchmarks.device.large_model import flops_per_row, inputs_of, large_unet
from benchmarks.device.names import COMPILED, EAGER, RATES, way
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, Precision, loosen
from benchmarks.device.timing import speed, timed

_COMPILING = 70.0  # seconds
_SECONDS = 0.4  # of each measurement


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    rows, labels = setting.sizes(1, 2, 4, 8, 16, 32), way(EAGER, FLOAT16.name)
    findings.attempt(RATES, labels, 15, theirs, setting, FLOAT16, rows)
    labels = way(COMPILED, FLOAT16.name)
    if setting.small:
        findings.miss(RATES, COMPILED, MINUTES)
    else:
        findings.attempt(RATES, labels, _COMPILING, theirs, setting, FLOAT16, (2, 8), compiled=True)


def theirs(
    setting: Setting,
    precision: Precision,
    sizes: Sequence[int],
    compiled: bool = False,
) -> Iterator[Row]:
    """diffusers' UNet of the same configuration."""
    config = large_unet(setting, precision, device="meta").config.to_dict()
    known = {name: value for name, value in config.items() if not name.startswith("_")}
    unet: Any = diffusers.UNet2DModel(**known).requires_grad_(False).eval()  # type: ignore[no-untyped-call, attr-defined]
    unet = unet.to(setting.on, precision.dtype)
    loosen()
    network: Callable[..., object] = unet
    if compiled:
        torch._dynamo.reset()
        unet = unet.to(memory_format=torch.channels_last)
        network = torch.compile(unet, dynamic=False, mode="reduce-overhead")
    for size in sizes:
        x, t = inputs_of(setting, precision, size)
        taken = timed(partial(network, x, t), _SECONDS)
        yield speed(size, taken, flops_per_row(setting))
