"""Stable Diffusion 1.5 and SDXL in float16: the engine's graphs, and its loop with prompts."""

from collections.abc import Iterator
from functools import partial

from benchmarks.device.engine import open_engine
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.loop import closed_loop, told
from benchmarks.device.names import BUCKETS, ENGINE, FLOOR, LOOP, RATES, way
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16
from benchmarks.device.prompt_models import (
    FAMILIES,
    Family,
    flops_per_row,
    prompt_model,
    unet_and_inputs,
)
from benchmarks.device.timing import graphed, reserved_gib, speed, timed
from benchmarks.stable_diffusion.bare import params

_NEEDS = 30.0  # seconds for one model
_SECONDS, _WARMUP = 8.0, 2.0  # of each loop
_FLOOR_NEEDS, _FLOOR_SECONDS = 8.0, 0.4  # of one network, and of each measurement


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    for family in FAMILIES:
        labels: Row = {"model": family.name, "precision": FLOAT16.name}
        findings.attempt(LOOP, labels, _NEEDS, engine, findings, setting, family, labels)
    for family in FAMILIES:
        labels = {"model": family.name, **way(FLOOR, FLOAT16.name)}
        findings.attempt(RATES, labels, _FLOOR_NEEDS, floor, setting, family)


def floor(setting: Setting, family: Family) -> Iterator[Row]:
    """Our UNet alone, each number of rows as a graph."""
    for size in setting.sizes(1, 2, 4, 8, 16):
        unet, inputs = unet_and_inputs(family, setting, FLOAT16, size)
        call = graphed(partial(unet, *inputs))
        yield speed(size, timed(call, _FLOOR_SECONDS), flops_per_row(family, setting))


def engine(findings: Findings, setting: Setting, family: Family, labels: Row) -> Iterator[Row]:
    """Every bucket, then the closed loop with decoding for more and more clients."""
    model = prompt_model(family, setting, FLOAT16)
    made = open_engine(setting, model, slots=16, buckets=setting.sizes(1, 2, 4, 8, 16))
    for row in made.buckets:
        findings.add(BUCKETS, labels | row)
    for bucket in made.runner.info.costs.buckets:
        rate = speed(bucket.rows, bucket.seconds, flops_per_row(family, setting))
        findings.add(RATES, {"model": family.name, **way(ENGINE, FLOAT16.name)} | rate)
    for clients in (1, 2) if setting.small else (1, 8, 16):
        wanted = params(made.runner.info, stream=clients)
        ticks = 5 if setting.small else None
        pace = closed_loop(made.runner, clients, 16, wanted, _SECONDS, ticks, _WARMUP)
        yield told(clients, pace) | {"GiB reserved": reserved_gib(setting)}
    made.backend.synchronize()  # before its memory is given up
