"""A UNet of Stable Diffusion's size, with random weights: the device decides, not the host."""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.device.engine import open_engine
from benchmarks.device.exact import classes, told
from benchmarks.device.findings import MINUTES, Findings, Row, Setting
from benchmarks.device.large_model import (
    flops_per_row,
    inputs_of,
    large_model,
    large_unet,
    shape_of,
)
from benchmarks.device.loop import pace_row
from benchmarks.device.names import BUCKETS, ENGINE, FLOOR, LOOP, RATES, way
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, TF32, Precision
from benchmarks.device.timing import graphed, reserved_gib, speed, timed

_COMPILING = 70.0  # seconds
_SECONDS = 0.4  # of each measurement


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    findings.add("Work", {"GFLOP per row": round(flops_per_row(setting) / 1e9, 2)})
    rows = setting.sizes(1, 2, 4, 8, 16, 32)

    labels = way(FLOOR, FLOAT16.name)
    findings.attempt(RATES, labels, 15, floor, setting, FLOAT16, rows)
    labels = {"precision": FLOAT16.name, "compiled": False}
    findings.attempt(LOOP, labels, 30, engine, findings, setting)
    labels = {"network": "UNet", "precision": FLOAT16.name}
    findings.attempt("Rows", labels, 12, exactness, setting, FLOAT16, rows)
    few, labels = setting.sizes(1, 8, 16), way(FLOOR, TF32.name)
    findings.attempt(RATES, labels, 15, floor, setting, TF32, few)
    for precision in (FLOAT16, TF32):
        labels = {"precision": precision.name}
        findings.attempt("Decoder", labels, 8, decoder, setting, precision)
    if setting.small:
        findings.miss(RATES, f"{FLOOR}, compiled", MINUTES)
        return
    labels, given = way(f"{FLOOR}, compiled", FLOAT16.name), (setting, FLOAT16)
    findings.attempt(RATES, labels, _COMPILING, floor, *given, (2, 8), compiled=True)


def floor(
    setting: Setting,
    precision: Precision,
    sizes: Sequence[int],
    compiled: bool = False,
) -> Iterator[Row]:
    """Our UNet alone, each number of rows as a graph."""
    unet = large_unet(setting, precision)
    if compiled:
        torch._dynamo.reset()
        unet.compile(dynamic=False)
    for size in sizes:
        x, t = inputs_of(setting, precision, size)
        call = graphed(partial(unet, x, t))
        yield speed(size, timed(call, _SECONDS), flops_per_row(setting))


def engine(findings: Findings, setting: Setting) -> Iterator[Row]:
    """The engine over the whole model: its buckets, and the closed loop with decoding."""
    model, slots = large_model(setting, FLOAT16), 8 if setting.small else 64
    made = open_engine(setting, model, slots=slots, buckets=setting.sizes(1, 2, 4, 8, 16, 32))
    for row in made.buckets:
        findings.add(BUCKETS, {"precision": "float16", **row})
    for bucket in made.runner.info.costs.buckets:
        rate = speed(bucket.rows, bucket.seconds, flops_per_row(setting))
        findings.add(RATES, way(ENGINE, FLOAT16.name) | rate)
    for in_flight in (1, 2) if setting.small else (1, 16, 64):
        row = pace_row(setting, made.runner, in_flight, slots)
        yield row | {"GiB reserved": reserved_gib(setting)}
    made.backend.synchronize()  # before its memory is given up


def exactness(setting: Setting, precision: Precision, sizes: Sequence[int]) -> Iterator[Row]:
    """Which numbers of rows give the same bits."""
    unet = large_unet(setting, precision)

    def network(x: Tensor, t: Tensor, _label: Tensor) -> Tensor:
        made: Tensor = unet(x.to(precision.dtype), t)
        return made

    yield told(classes(network, sizes, shape_of(setting), setting.on, 4 if setting.small else 32))


def decoder(setting: Setting, precision: Precision) -> Iterator[Row]:
    """Images of 512 x 512 pixels."""
    model = large_model(setting, precision)
    for size in (1, 2) if setting.small else (1, 4, 16):
        x, _ = inputs_of(setting, precision, size)
        taken = timed(partial(model.vae.decode, x), _SECONDS, 3)
        yield speed(size, taken) | {"GiB reserved": reserved_gib(setting)}
