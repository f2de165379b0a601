"""What the engine does when memory runs out, a capture fails, the device or the worker is lost.

    python -m benchmarks.device.faults capture cuda

runs one of those that leave a process unusable, and prints what it saw as JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator

import torch

from app.engine.backends.base import Rows, Slots, device_errors
from app.engine.backends.cuda import CudaGraphs
from app.engine.job import DeviceLost
from benchmarks.device.engine import Digits, open_engine, prepare
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.killing import kill_worker
from benchmarks.device.loop import crowd, requests
from benchmarks.device.names import FAULTS
from benchmarks.device.precision import FLOAT16, FLOAT32
from benchmarks.servers import call
from models.library import find

_HUGE = 65_536  # rows
_SLOTS = 11
_SPARE = 1 << 30  # bytes that are left for the buckets


@torch.inference_mode()
def measure(findings: Findings, setting: Setting) -> None:
    prepare(setting)
    alone = {"capture": "a capture fails", "lost": "the device is lost"}
    faults: dict[str, Callable[[], Iterator[Row]]] = {
        "memory runs out in a step": lambda: memory_in_a_step(setting),
        "memory runs out while buckets are measured": lambda: memory_at_the_start(setting),
    }
    faults |= {title: lambda n=name: apart(n, setting) for name, title in alone.items()}
    faults["a bucket is larger than the memory"] = lambda: huge_bucket(setting)
    faults["the worker is killed under load"] = lambda: kill_worker(setting)
    for title, fault in faults.items():
        findings.attempt(FAULTS, {"fault": title}, fault, needs=10)


class Limited(CudaGraphs):
    """A device without memory for ticks of more than `most` rows."""

    most = sys.maxsize

    def step(self, slots: Slots, rows: Rows) -> None:
        """As the backend itself, if memory suffices."""
        if len(rows.read) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        super().step(slots, rows)


def memory_in_a_step(setting: Setting) -> Iterator[Row]:
    """Fewer rows ride, and every image is as without the fault."""
    precision = FLOAT16 if setting.small else FLOAT32  # of which a CPU has more exact buckets
    engine, wanted = open_engine(setting, precision, kind=Limited), requests(setting, 6)
    rows = [bucket.rows for bucket in engine.runner.info.costs.buckets]
    if len(rows) < 2:
        raise ValueError(f"only the bucket of {rows[0]} rows is used: there is none to go down to")
    whole = crowd(engine.runner, wanted, _SLOTS)
    assert isinstance(engine.backend, Limited)
    engine.backend.most = most = rows[-2]
    made = crowd(engine.runner, wanted, _SLOTS)
    yield {"as it should": made == whole, "seen": f"of {rows} rows, at most {most} were possible"}


def memory_at_the_start(setting: Setting) -> Iterator[Row]:
    """Larger buckets are left out."""

    class Small(Limited):
        most = 16

    engine = open_engine(setting, kind=Small, buckets=(4, 16, 32, 64))
    rows = [bucket.rows for bucket in engine.runner.info.costs.buckets]
    yield {"as it should": max(rows) <= Small.most, "seen": f"buckets {rows}"}


def huge_bucket(setting: Setting) -> Iterator[Row]:
    """The same with memory that really ends."""
    if not setting.cuda:
        raise ValueError("needs a GPU")
    total = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + _SPARE) / total)
    try:
        engine = open_engine(setting, buckets=(4, 16, 64, _HUGE))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    rows = [bucket.rows for bucket in engine.runner.info.costs.buckets]
    yield {"as it should": bool(rows) and _HUGE not in rows, "seen": f"buckets {rows}"}


def apart(name: str, setting: Setting) -> Iterator[Row]:
    """A fault in a process of its own."""
    yield call(__name__, name, setting.device)


def failing_capture(setting: Setting) -> Row:
    """The UNet reads a number back, which no capture allows: the process has to be left."""
    model = Digits.open(find("digits"), device=setting.device)
    model.unet.register_forward_pre_hook(lambda _, inputs: inputs[0].sum().item())
    backend = CudaGraphs(model, compiled=False)
    slots, places = Slots.of(4, model), torch.arange(2)
    zeros = torch.zeros(2)
    rows = Rows(places, places, places, places - 1, places, places, zeros, zeros, None)
    try:
        with device_errors():
            backend.step(slots, rows)
            backend.synchronize()
    except Exception as error:
        return {"as it should": isinstance(error, DeviceLost), "seen": said(error)}
    return {"as it should": False, "seen": "nothing was raised"}


def lost_device(setting: Setting) -> Row:
    """An index out of range ends the context for good: it is told from other errors, each time."""
    if not setting.cuda:
        raise ValueError("needs a GPU")
    x, far = torch.zeros(4, device=setting.device), torch.tensor([99], device=setting.device)
    seen: list[Exception] = []
    for _ in range(2):
        try:
            with device_errors():
                x[far] = 1.0
                torch.cuda.synchronize()
        except Exception as error:
            seen.append(error)
    right = [isinstance(error, DeviceLost) for error in seen] == [True, True]
    return {"as it should": right, "seen": "; ".join(map(said, seen))}


def said(error: Exception) -> str:
    """The kind of an error, and its first line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:100]}"


if __name__ == "__main__":
    where = Setting(sys.argv[2], small=True)
    prepare(where)
    with torch.inference_mode():
        print(json.dumps({"capture": failing_capture, "lost": lost_device}[sys.argv[1]](where)))
