"""How many rows per second: the engine's ticks beside the UNet alone, and beside diffusers."""

from collections.abc import Callable, Iterator

import torch

from benchmarks.device import ways
from benchmarks.device.engine import SLOTS, open_engine, prepare
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.loop import closed_loop
from benchmarks.device.names import COMPILED, EAGER, ENGINE, FLOOR, LAUNCH, LOOP, RATES
from benchmarks.device.precision import FLOAT16, FLOAT32, PRECISIONS, TF32, Precision
from benchmarks.device.timing import host_microseconds, speed, timed

_SLOTS = 512
_COMPILING = 45.0  # seconds that a compilation may take
_CRAMPED = (16, 128, 512)  # rows, where each number has to be compiled


@torch.inference_mode()
def measure(findings: Findings, setting: Setting) -> None:
    prepare(setting)
    compare(findings, setting)
    try_out(findings, setting)
    if setting.small:
        findings.miss(RATES, "whatever is compiled", "not with --small: it takes minutes")
    else:
        compile_all(findings, setting)


def rates(
    findings: Findings,
    way: str,
    precision: Precision,
    measured: Callable[[], Iterator[Row]],
    needs: float = 5.0,
) -> None:
    """Time one way at several numbers of rows."""
    findings.attempt(RATES, {"way": way, "precision": precision.name}, measured, needs)


def compare(findings: Findings, setting: Setting) -> None:
    """The engine, its floor, and diffusers as it is."""
    many = setting.sizes(1, 4, 16, 64, 128, 256, 512, 1024)
    for p in PRECISIONS:
        rates(findings, FLOOR, p, lambda p=p: ways.unet(setting, p, "NCHW", many))
    for p in (FLOAT32, TF32, FLOAT16):
        rates(findings, ENGINE, p, lambda p=p: engine(findings, setting, p), 15)
    few = setting.sizes(1, 16, 64, 128, 512)
    for p in (FLOAT32, TF32):
        rates(findings, EAGER, p, lambda p=p: ways.diffusers(setting, p, few, compiled=False), 8)


def try_out(findings: Findings, setting: Setting) -> None:
    """What the engine might do instead."""
    few = setting.sizes(1, 16, 128, 512)
    for p in (TF32, FLOAT16):
        rates(findings, f"{FLOOR}, NHWC", p, lambda p=p: ways.unet(setting, p, "NHWC", few))
    rates(findings, "tick without a graph", FLOAT32, lambda: ways.loose(setting, FLOAT32, few))
    for each, count in ((16, 4), (64, 2), (64, 8)):
        name = f"{count} branches of {each} rows"
        rates(findings, name, TF32, lambda e=each, c=count: ways.branches(setting, TF32, e, c))


def compile_all(findings: Findings, setting: Setting) -> None:
    """Ours and diffusers', compiled: minutes."""
    for p in (FLOAT32, TF32, FLOAT16):
        rates(
            findings,
            COMPILED,
            p,
            lambda p=p: ways.diffusers(setting, p, _CRAMPED, compiled=True),
            _COMPILING,
        )
        rates(
            findings,
            f"{ENGINE}, compiled",
            p,
            lambda p=p: engine(findings, setting, p, compiled=True),
            _COMPILING,
        )


def engine(
    findings: Findings, setting: Setting, precision: Precision, compiled: bool = False
) -> Iterator[Row]:
    """The runner's step, what it costs the host, and the worker's loop with decoding."""
    made = open_engine(
        setting,
        precision,
        slots=_SLOTS,
        compiled=compiled,
        buckets=_CRAMPED if compiled else None,
    )
    labels: Row = {"precision": precision.name, "compiled": compiled}
    for bucket in made.runner.info.costs.buckets:
        step = ways.riding(made, bucket.rows)
        yield speed(bucket.rows, timed(setting, step))
        calls: Row = {
            "rows": bucket.rows,
            "us until the call returns": host_microseconds(setting, step),
            "us until it is done": round(bucket.seconds * 1e6, 1),
        }
        findings.add(LAUNCH, labels | calls)
    for in_flight in (1, 4) if setting.small else (1, 16, 64, 256, 512):
        row = closed_loop(setting, made.runner, in_flight, max(in_flight, SLOTS))
        findings.add(LOOP, labels | row)
