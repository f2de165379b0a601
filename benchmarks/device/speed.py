"""How many rows per second: the engine's ticks beside the UNet alone."""

from collections.abc import Iterator

from benchmarks.device import ways
from benchmarks.device.engine import SLOTS, open_digits, open_engine
from benchmarks.device.findings import MINUTES, Findings, Row, Setting
from benchmarks.device.loop import pace_row
from benchmarks.device.names import ENGINE, FLOOR, LAUNCH, LOOP, RATES, way
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, FLOAT32, PRECISIONS, TF32, Precision
from benchmarks.device.timing import host_microseconds, speed, timed

_SLOTS = 512
_COMPILING = 45.0  # seconds that a compilation may take
_CRAMPED = (16, 128, 512)  # rows, where each number has to be compiled


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    compare(findings, setting)
    try_out(findings, setting)
    if setting.small:
        findings.miss(RATES, f"{ENGINE}, compiled", MINUTES)
    else:
        compile_all(findings, setting)


def compare(findings: Findings, setting: Setting) -> None:
    """The engine and its floor."""
    many = setting.sizes(1, 4, 16, 64, 128, 256, 512, 1024)
    for p in PRECISIONS:
        findings.attempt(RATES, way(FLOOR, p.name), 5, ways.unet, setting, p, many)
    for p in (FLOAT32, TF32, FLOAT16):
        findings.attempt(RATES, way(ENGINE, p.name), 15, engine, findings, setting, p)


def try_out(findings: Findings, setting: Setting) -> None:
    """What the engine might do instead."""
    few = setting.sizes(1, 16, 128, 512)
    labels = way("tick without a graph", FLOAT32.name)
    findings.attempt(RATES, labels, 5, ways.eager, setting, FLOAT32, few)
    if not setting.cuda:
        findings.miss(RATES, "branches of a graph", "the fake has none")
        return
    for each, count in ((16, 4), (64, 2), (64, 8)):
        labels = way(f"{count} branches of {each} rows", TF32.name)
        findings.attempt(RATES, labels, 5, ways.branches, setting, TF32, each, count)


def compile_all(findings: Findings, setting: Setting) -> None:
    """The engine with a UNet that is compiled: minutes."""
    for p in (FLOAT32, TF32, FLOAT16):
        labels = way(f"{ENGINE}, compiled", p.name)
        findings.attempt(RATES, labels, _COMPILING, engine, findings, setting, p, compiled=True)


def engine(
    findings: Findings, setting: Setting, precision: Precision, compiled: bool = False
) -> Iterator[Row]:
    """The runner's step, what it costs the host, and the worker's loop with decoding."""
    made = open_engine(
        setting,
        open_digits(setting, precision),
        slots=_SLOTS,
        compiled=compiled,
        buckets=_CRAMPED if compiled else None,
    )
    labels: Row = {"precision": precision.name, "compiled": compiled}
    for bucket in made.runner.info.costs.buckets:
        step = ways.riding(made, bucket.rows)
        yield speed(bucket.rows, timed(step))
        calls: Row = {
            "rows": bucket.rows,
            "us until the call returns": host_microseconds(setting, step),
            "us until it is done": round(bucket.seconds * 1e6, 1),
        }
        findings.add(LAUNCH, labels | calls)
    for in_flight in (1, 4) if setting.small else (1, 16, 64, 256, 512):
        row = pace_row(setting, made.runner, in_flight, max(in_flight, SLOTS))
        findings.add(LOOP, labels | row)
    made.backend.synchronize()  # before its memory is given up
