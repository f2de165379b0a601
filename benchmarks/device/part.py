"""One part, in this process: what `benchmarks.gpu` starts.

python -m benchmarks.device.part machine cpu --small tables.json 60
"""

import importlib
import signal
import sys
import time
from pathlib import Path

import click

from benchmarks.device.findings import Findings, Setting


@click.command()
@click.argument("name")
@click.argument("device")
@click.option("--small", is_flag=True)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("seconds", type=float)
def main(name: str, device: str, small: bool, file: Path, seconds: float) -> None:
    """Run the part NAME on DEVICE; it has so many SECONDS, and writes into FILE."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # stops servers too
    findings = Findings(file, time.monotonic() + seconds)
    importlib.import_module(f"benchmarks.device.{name}").measure(findings, Setting(device, small))


if __name__ == "__main__":
    main()
