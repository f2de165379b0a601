"""diffusers' UNet of Stable Diffusion's size, as PyTorch leaves it, and compiled."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DModel

from benchmarks.device.findings import MINUTES, Findings, Row, Setting
from benchmarks.device.large_model import config_of, filled, flops_per_row, inputs_of
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
    known = {k: v for k, v in config_of(setting).to_dict().items() if not k.startswith("_")}
    with torch.device("meta"):
        meta: Any = UNet2DModel(**known)  # type: ignore[no-untyped-call]
    unet: Any = filled(meta, setting, precision)
    loosen()
    network: Callable[..., object] = unet
    if compiled:
        torch._dynamo.reset()
        unet.to(memory_format=torch.channels_last)
        network = torch.compile(unet, dynamic=False, mode="reduce-overhead")
    for size in sizes:
        x, t = inputs_of(setting, precision, size)
        taken = timed(partial(network, x, t), _SECONDS)
        yield speed(size, taken, flops_per_row(setting))
