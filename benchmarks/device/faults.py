"""What the engine does when memory runs out, a capture fails, the device or the worker is lost.

    python -m benchmarks.device.faults capture cuda

runs one of those that leave a process unusable, and prints what it saw as JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from app.engine.backends.base import WHOLE, Part, Rows, Slots, device_errors
from app.engine.backends.cuda import CudaGraphs
from app.engine.errors import DeviceLost
from benchmarks.device.engine import open_digits, open_engine
from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.killing import kill_worker
from benchmarks.device.loop import crowd, requests
from benchmarks.device.names import FAULTS
from benchmarks.device.place import device, on_device
from benchmarks.device.precision import FLOAT16, FLOAT32
from benchmarks.servers import call
from models.memory import activations
from models.samplers import COEFFICIENTS

_NEEDS = 10.0  # seconds for one fault
_REAL = ("the device is lost", "there is little memory")
_SLOTS = 11


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    faults: dict[str, Callable[[Setting], Iterator[Row]]] = {
        "memory runs out in a step": memory_in_a_step,
        "memory runs out while buckets are measured": memory_at_the_start,
        "a capture fails": partial(apart, "capture"),
        "the device is lost": partial(apart, "lost"),
        "there is little memory": little_memory,
        "the worker is killed under load": kill_worker,
    }
    for title, fault in faults.items():
        if setting.cuda or title not in _REAL:
            findings.attempt(FAULTS, {"fault": title}, _NEEDS, fault, setting)
        else:
            findings.miss(FAULTS, title, "it needs a GPU")


class Limited(CudaGraphs):
    """A device without memory for ticks of more than `most` rows."""

    most = sys.maxsize

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
        """As the backend itself, if memory suffices."""
        if len(rows.read) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        super().step(slots, rows, part)


def memory_in_a_step(setting: Setting) -> Iterator[Row]:
    """Fewer rows ride, and every image is as without the fault."""
    precision = FLOAT16 if setting.small else FLOAT32  # of which a CPU has more exact buckets
    engine = open_engine(setting, open_digits(setting, precision), kind=Limited)
    wanted = requests(setting, 6)
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

    model = open_digits(setting, FLOAT32)
    engine = open_engine(setting, model, kind=Small, buckets=(4, 16, 32, 64))
    rows = [bucket.rows for bucket in engine.runner.info.costs.buckets]
    yield {"as it should": max(rows) <= Small.most, "seen": f"buckets {rows}"}


def little_memory(setting: Setting) -> Iterator[Row]:
    """The same with memory that really ends, at an estimate of what fewer and fewer rows need."""
    total = torch.cuda.mem_get_info()[1]
    for rows in (128, 32, 8):
        model = open_digits(setting, FLOAT32)
        room = activations(model.unet.config, model.vae.config, rows)
        taken = torch.cuda.memory_reserved()
        torch.cuda.set_per_process_memory_fraction((taken + room) / total)
        try:
            engine = open_engine(setting, model)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        used = [bucket.rows for bucket in engine.runner.info.costs.buckets]
        if max(used) < max(engine.backend.buckets):
            yield {"as it should": True, "seen": f"{room >> 20} MiB: buckets {used}"}
            return
        del engine, model
        torch.cuda.empty_cache()
    yield {"as it should": False, "seen": f"{room >> 20} MiB were enough for all buckets"}


def apart(name: str, setting: Setting) -> Iterator[Row]:
    """A fault in a process of its own."""
    yield call(__name__, name, setting.device)


def failing_capture(setting: Setting) -> Row:
    """The UNet reads a number back, which no capture allows: the process has to be left."""
    model = open_digits(setting, FLOAT32)
    model.unet.register_forward_pre_hook(read_back)
    backend = CudaGraphs(model, compiled=False)
    slots, places = Slots.of(4, model.denoiser, model.latent_shape), torch.arange(2)
    rows = Rows(
        read=places,
        write=places,
        side=2 * places,
        t=places.float(),
        null=places,
        scale=torch.ones(2),
        coefficients=torch.zeros(2, COEFFICIENTS),
    )
    try:
        with device_errors():
            backend.step(slots, rows)
            backend.synchronize()
    except Exception as error:
        return {"as it should": isinstance(error, DeviceLost), "seen": said(error)}
    return {"as it should": False, "seen": "nothing was raised"}


def read_back(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Wait for a number."""
    inputs[0].sum().item()


def lost_device(setting: Setting) -> Row:
    """An index out of range ends the context for good: it is told from other errors, each time."""
    x, far = torch.zeros(4, device=setting.on), torch.tensor([99], device=setting.on)
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
    with torch.inference_mode(), device(where):
        print(json.dumps({"capture": failing_capture, "lost": lost_device}[sys.argv[1]](where)))
