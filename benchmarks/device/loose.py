"""`exact` again, with CUDA's libraries as PyTorch leaves them: what setting them is worth."""

from benchmarks.device import exact
from benchmarks.device.findings import Findings, Setting
from benchmarks.device.place import on_device


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    exact.compare(findings, setting, loose=True)
