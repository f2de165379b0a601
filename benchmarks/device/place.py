"""Where a part runs: on the GPU, or on a fake of one."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

import torch

from benchmarks.device.findings import Findings, Setting

_CAPACITY = 64 << 30  # bytes of the fake's memory

Measure = Callable[[Findings, Setting], None]


def on_device(measure: Measure) -> Measure:
    """Make a part run on the device, without gradients; what a fake finds wrong is added."""

    @wraps(measure)
    def run(findings: Findings, setting: Setting) -> None:
        with torch.inference_mode(), device(setting) as faults:
            measure(findings, setting)
        for fault, times in Counter(faults).items():
            findings.add("What the fake found", {"fault": fault, "times": times})

    return run


@contextmanager
def device(setting: Setting) -> Iterator[list[str]]:
    """Begin on the device; the list is of what a real one would not tell."""
    if setting.cuda:
        torch.cuda.set_device(setting.on)
        torch.zeros(1, device=setting.on)  # the context is made now, and not while timing
        yield []
        return
    from tests import fake_cuda  # the tests do not travel where only a server runs

    torch.set_num_threads(1)
    with fake_cuda.installed(_CAPACITY) as fake:
        yield fake.faults
