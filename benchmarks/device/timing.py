"""Time on the device: calls, calls as CUDA graphs, and calls side by side in one graph."""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

from benchmarks.device.findings import Row, Setting

Call = Callable[[], object]
_WARM_CALLS = 3  # before a capture: libraries choose their kernels and allocate in them


def synchronize() -> None:
    """Wait for the device."""
    torch.cuda.synchronize()


def timed(call: Call, seconds: float = 0.15, repeats: int = 5) -> float:
    """Seconds per call when one follows the other: the median of `repeats` runs of many calls."""
    for _ in range(2):
        call()
    synchronize()
    once = _elapsed(call, 1)
    count = max(int(seconds / repeats / max(once, 1e-6)), 1)
    return statistics.median(_elapsed(call, count) for _ in range(repeats))


def _elapsed(call: Call, count: int) -> float:
    """Seconds per call of `count` calls, until the device has done them."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    synchronize()
    return (time.perf_counter() - began) / count


def host_microseconds(setting: Setting, call: Call, count: int = 200) -> float:
    """Microseconds until a call returns, on an idle device; the median."""
    taken = []
    for _ in range(count if setting.cuda else 5):
        synchronize()
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    synchronize()
    return round(statistics.median(taken) * 1e6, 1)


def graphed(call: Call) -> Call:
    """The call as a replay of a CUDA graph, which holds on to what the call holds."""
    home, side, graph = torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.CUDAGraph()
    side.wait_stream(home)
    with torch.cuda.stream(side):
        for _ in range(_WARM_CALLS):
            call()
    home.wait_stream(side)
    try:
        with torch.cuda.graph(graph, stream=side):
            call()
    finally:  # a capture that fails may leave its own stream the current one
        torch.cuda.set_stream(home)

    def replay(_: Call = call) -> None:
        graph.replay()

    return replay


def side_by_side(calls: Sequence[Call]) -> Call:
    """All calls, each on a stream of its own: in a graph, branches that may run together."""

    def call() -> None:
        home = torch.cuda.current_stream()
        streams = [home, *(torch.cuda.Stream() for _ in calls[1:])]
        for stream in streams[1:]:
            stream.wait_stream(home)
        for one, stream in zip(calls, streams, strict=True):
            with torch.cuda.stream(stream):
                one()
        for stream in streams[1:]:
            home.wait_stream(stream)

    return call


def speed(rows: int, seconds: float, flops_per_row: float | None = None) -> Row:
    """Cells of a measurement of so many rows."""
    cells: Row = {
        "rows": rows,
        "ms": round(seconds * 1000, 4),
        "rows/s": round(rows / seconds, 1),
    }
    if flops_per_row is not None:
        cells["TFLOP/s"] = round(rows * flops_per_row / seconds / 1e12, 2)
    return cells


def reserved_gib(setting: Setting) -> float | None:
    """The most memory that PyTorch has had of the GPU in this process."""
    return round(torch.cuda.max_memory_reserved() / 2**30, 2) if setting.cuda else None
