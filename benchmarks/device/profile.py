"""How busy the device is under the engine's loop, and with what; what the host waits for."""

import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from app.engine.runner import Runner
from benchmarks.device.engine import open_digits, open_engine
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.loop import pace_row
from benchmarks.device.place import on_device
from benchmarks.device.precision import FLOAT16, FLOAT32, TF32, Precision
from benchmarks.device.prompt_models import FAMILIES, Family, unet_and_inputs
from benchmarks.device.timing import synchronize

_NEEDS = 12.0  # seconds for one loop
_KERNELS, _CALLS = 15, 12  # the ones that are listed
_NAME = 80  # characters of a kernel's
_ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
_OF_HOST = ("cuda_runtime", "cuda_driver")

Events = list[dict[str, Any]]


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    crowds = [(FLOAT32, 3)] if setting.small else [(FLOAT32, 64), (TF32, 64), (TF32, 512)]
    for precision, in_flight in crowds:
        labels: Row = {"precision": precision.name, "in flight": in_flight}
        given = findings, setting, precision, in_flight, labels
        findings.attempt("Busy", labels, _NEEDS, look, *given)
    for family in FAMILIES:
        for size in (2, 16):
            labels = {"model": family.name, "rows": size}
            findings.attempt("Kernels", labels, _NEEDS, kernels, setting, family, size)


def kernels(setting: Setting, family: Family, size: int) -> Iterator[Row]:
    """What one evaluation of the UNet consists of."""
    unet, inputs = unet_and_inputs(family, setting, FLOAT16, size)
    unet(*inputs)
    events = traced(setting, partial(unet, *inputs))
    busy, _ = occupied(events)
    yield {"name": "all", "share": f"{busy / 1000:.2f} ms", "count": len(events), "us each": None}
    yield from ranked(events, busy, _KERNELS)


def look(
    findings: Findings, setting: Setting, precision: Precision, in_flight: int, labels: Row
) -> Iterator[Row]:
    """The closed loop, first without the profiler, then some ticks with it."""
    slots = max(in_flight, 64)
    engine = open_engine(setting, open_digits(setting, precision), slots=slots)
    ticks = 5 if setting.small else 150
    plain = pace_row(setting, engine.runner, in_flight, slots)
    events = profiled(setting, engine.runner, in_flight, slots, ticks)
    engine.backend.synchronize()  # before its memory is given up
    device = [event for event in events if event.get("cat") in _ON_DEVICE]
    host = [event for event in events if event.get("cat") in _OF_HOST]
    if not setting.cuda:  # to see the tables: operators stand for kernels
        device = [event for event in events if event.get("cat") == "cpu_op"]
    busy, whole = occupied(device)
    yield {
        "ms per tick, unprofiled": plain["ms per tick"],
        "rows/s, unprofiled": plain["rows/s"],
        "device busy, profiled": f"{busy / whole:.0%}",
        "device events per tick": round(len(device) / ticks, 1),
    }
    for row in ranked(device, busy, _KERNELS):
        findings.add("On the device", labels | row)
    for row in ranked(host, whole, _CALLS):
        findings.add("The host's calls", labels | row)


def profiled(setting: Setting, runner: Runner, in_flight: int, slots: int, ticks: int) -> Events:
    """The events of some ticks, as Chrome's trace format has them; times in microseconds."""
    return recorded(setting, partial(pace_row, setting, runner, in_flight, slots, ticks))


def traced(setting: Setting, call: Callable[[], object]) -> Events:
    """What the device did in a call; on a fake, operators."""
    kinds = _ON_DEVICE if setting.cuda else ("cpu_op",)
    return [event for event in recorded(setting, call) if event.get("cat") in kinds]


def recorded(setting: Setting, call: Callable[[], object]) -> Events:
    """All events of a call."""
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.cuda else [])]
    with torch.profiler.profile(activities=kinds) as taken:
        call()
        synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        taken.export_chrome_trace(str(path))
        events: Events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return [event for event in events if "dur" in event]


def occupied(events: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Microseconds in which at least one event ran, and from the first to the last."""
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in events)
    busy, end = 0.0, -math.inf
    for first, last in spans:
        busy += max(last - max(first, end), 0)
        end = max(end, last)
    return busy, max(end - spans[0][0], 1e-9)


def ranked(events: Iterable[Mapping[str, Any]], whole: float, most: int) -> Iterator[Row]:
    """What took the most time, all calls of a name together."""
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        durations[event["name"][:_NAME]].append(event["dur"])
    for name, each in sorted(durations.items(), key=lambda item: -sum(item[1]))[:most]:
        yield {
            "name": name.replace("|", "/"),
            "share": f"{sum(each) / whole:.1%}",
            "count": len(each),
            "us each": round(statistics.mean(each), 2),
        }
