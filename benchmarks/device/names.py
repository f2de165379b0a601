"""The names of tables and ways that more than one module reads."""

from benchmarks.device.findings import Row

PIXELS, BUCKETS = "Pixels", "Buckets"
OFF = "off the CPU's loop, at most, of 255"
RATES, LOOP, LAUNCH = "Rows per second", "Closed loop without a server", "Launching a tick"
FLOOR, ENGINE = "UNet alone, as a graph", "engine"
FREE_FLOOR = f"{FLOOR}, kernels chosen freely"
EAGER, COMPILED = "diffusers, eager", "diffusers, compiled"
LOAD, FAULTS = "Load", "Faults"


def way(name: str, precision: str) -> Row:
    """What names a series of rates."""
    return {"way": name, "precision": precision}
