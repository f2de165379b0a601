"""diffusers' UNet and DDIM scheduler with the weights of the digits: eager, and compiled.

CUDA's libraries choose freely here. So our UNet runs here again: what exactness costs.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.device import ways
from benchmarks.device.findings import MINUTES, Findings, Row, Setting
from benchmarks.device.names import COMPILED, EAGER, FREE_FLOOR, RATES, way
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, FLOAT32, TF32, Precision, loosen
from benchmarks.device.timing import speed, timed
from benchmarks.peers.sampling import Digits

_COMPILING = 45.0  # seconds that a compilation may take
_CRAMPED = (16, 128, 512)  # rows, where each number has to be compiled


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    few = setting.sizes(1, 16, 64, 128, 512)
    for p in (FLOAT32, TF32, FLOAT16):
        findings.attempt(RATES, way(EAGER, p.name), 8, diffusers, setting, p, few)
    for p in (FLOAT32, TF32, FLOAT16):
        findings.attempt(RATES, way(FREE_FLOOR, p.name), 5, free_floor, setting, p, few)
    if setting.small:
        findings.miss(RATES, COMPILED, MINUTES)
        return
    for p in (FLOAT32, TF32, FLOAT16):
        labels = way(COMPILED, p.name)
        findings.attempt(RATES, labels, _COMPILING, diffusers, setting, p, _CRAMPED, compiled=True)


def free_floor(setting: Setting, precision: Precision, sizes: Sequence[int]) -> Iterator[Row]:
    """Our UNet alone, as a graph, with whatever kernels the libraries like best."""
    yield from ways.unet(setting, precision, sizes, loose=True)


@torch.inference_mode(mode=False)  # weights are plain tensors
def opened(setting: Setting, precision: Precision) -> Digits:
    """diffusers' modules, the UNet on the device."""
    digits = Digits("cpu")
    digits.unet.requires_grad_(False)
    weights = digits.unet.state_dict().items()
    digits.unet.load_state_dict(
        {name: weight.to(setting.on, precision.dtype) for name, weight in weights}, assign=True
    )
    digits.scheduler.set_timesteps(50)
    return digits


def diffusers(
    setting: Setting, precision: Precision, sizes: Sequence[int], compiled: bool = False
) -> Iterator[Row]:
    """A step of rows that all have the same timestep."""
    digits = opened(setting, precision)
    precision.use()
    loosen()
    # The UNet reads it on the device, the scheduler on the host: neither waits for the other.
    timesteps = itertools.cycle([(t, t.to(setting.on)) for t in digits.scheduler.timesteps])
    network: Callable[..., Any] = digits.unet

    def step(x: Tensor, labels: Tensor) -> None:
        t, there = next(timesteps)
        digits.scheduler.step(network(x, there, class_labels=labels).sample, t, x)

    if compiled:
        torch._dynamo.reset()
        network = torch.compile(digits.unet, mode="reduce-overhead", dynamic=False)
    for size in sizes:
        x = torch.randn(size, 4, 8, 8, device=setting.on, dtype=precision.dtype)
        labels = torch.arange(size, device=setting.on) % 10
        yield speed(size, timed(partial(step, x, labels), 0.2))
