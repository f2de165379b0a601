"""diffusers' UNets of Stable Diffusion 1.5 and SDXL, as PyTorch leaves them, and compiled."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from benchmarks.device.findings import MINUTES, Findings, Row, Setting
from benchmarks.device.large_model import filled
from benchmarks.device.names import COMPILED, EAGER, RATES, way
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, Precision, loosen
from benchmarks.device.prompt_models import FAMILIES, TOKENS, Family, flops_per_row
from benchmarks.device.timing import speed, timed
from models.config import SIZE_NUMBERS

_NEEDS, _COMPILING = 10.0, 60.0  # seconds
_SECONDS = 0.4  # of each measurement


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    rows = setting.sizes(1, 2, 4, 8, 16)
    for compiled, family in itertools.product((False, True), FAMILIES):
        name, needs = (COMPILED, _COMPILING) if compiled else (EAGER, _NEEDS)
        labels: Row = {"model": family.name, **way(name, FLOAT16.name)}
        if compiled and setting.small:
            findings.miss(RATES, f"{name}, {family.name}", MINUTES)
            continue
        sizes = (2, 16, 1, 4, 8) if compiled else rows  # time may end before the last
        given = family, setting, FLOAT16, sizes
        findings.attempt(RATES, labels, needs, theirs, *given, compiled=compiled)


def theirs(
    family: Family, setting: Setting, precision: Precision, sizes: Sequence[int], *, compiled: bool
) -> Iterator[Row]:
    """diffusers' UNet of the same configuration."""
    known = family.config(setting).to_dict().items()
    with torch.device("meta"):
        meta: Any = UNet2DConditionModel(**{k: v for k, v in known if not k.startswith("_")})
    unet: Any = filled(meta, setting, precision)
    loosen()
    network: Callable[..., object] = unet
    if compiled:
        torch._dynamo.reset()
        unet.to(memory_format=torch.channels_last)
        network = torch.compile(unet, dynamic=False, mode="reduce-overhead")
    for size in sizes:
        call = partial(network, **inputs_of(family, setting, precision, size))
        yield speed(size, timed(call, _SECONDS), flops_per_row(family, setting))


def inputs_of(family: Family, setting: Setting, precision: Precision, size: int) -> dict[str, Any]:
    """So many rows of a step, as diffusers' UNet has them."""
    config = family.config(setting)
    draw = partial(torch.randn, device=setting.on, dtype=precision.dtype)
    inputs = {
        "sample": draw(size, config.in_channels, *config.latent_size),
        "timestep": torch.arange(size, device=setting.on) * 11 % 1000,
        "encoder_hidden_states": draw(size, TOKENS, config.cross_attention_dim),
    }
    if not config.pooled_dim:
        return inputs
    added = {"text_embeds": draw(size, config.pooled_dim), "time_ids": draw(size, SIZE_NUMBERS)}
    return inputs | {"added_cond_kwargs": added}
