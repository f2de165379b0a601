"""`exact` again, with CUDA's libraries as PyTorch leaves them: what setting them is worth."""

from benchmarks.device import exact
from benchmarks.device.findings import Findings, Setting


def measure(findings: Findings, setting: Setting) -> None:
    exact.measure(findings, setting, loose=True)
