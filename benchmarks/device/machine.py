"""What the machine can do: matrix products, convolutions, memory, launches."""

import itertools
import subprocess
from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

from benchmarks.device.findings import Findings, Row, Setting
from benchmarks.device.place import on_device
from benchmarks.device.precision import PRECISIONS, Precision, loosen
from benchmarks.device.timing import graphed, host_microseconds, side_by_side, timed

_QUICK = 3.0  # seconds that each of these takes at most
_NODES = 320  # of a graph; a tick of the digits has about as many
_CARD = "name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit,temperature.gpu"
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}


@on_device
def measure(findings: Findings, setting: Setting) -> None:
    findings.attempt("Device", {}, _QUICK, card, setting)
    for precision in PRECISIONS:
        labels: Row = {"what": "matrix product", "precision": precision.name, "layout": ""}
        findings.attempt("Arithmetic", labels, _QUICK, products, setting, precision)
    for precision, layout in itertools.product(PRECISIONS, LAYOUTS):
        labels = {"what": "3 x 3 convolution", "precision": precision.name, "layout": layout}
        findings.attempt("Arithmetic", labels, _QUICK, convolutions, setting, precision, layout)
    findings.attempt("Memory", {}, _QUICK, copies, setting)
    for branches in (1, 2, 4, 8) if setting.cuda else (1,):  # the fake has none
        labels = {"branches": branches}
        findings.attempt("Nodes of a graph", labels, _QUICK, nodes, setting, branches)
    findings.attempt("The host's calls", {}, _QUICK, calls, setting)


def card(setting: Setting) -> Iterator[Row]:
    """The GPU as its driver describes it, and PyTorch's libraries."""
    yield {"what": "CUDA", "value": torch.version.cuda}
    if not setting.cuda:
        return
    yield {"what": "cuDNN", "value": torch.backends.cudnn.version()}
    query = ["nvidia-smi", f"--query-gpu={_CARD}", "--format=csv,noheader"]
    told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
    for name, value in zip(_CARD.split(","), told.splitlines()[0].split(", "), strict=True):
        yield {"what": name, "value": value}


def products(setting: Setting, precision: Precision) -> Iterator[Row]:
    """Of square matrices."""
    precision.use()
    loosen()
    size = 256 if setting.small else 8192
    a, b = torch.randn(2, size, size, device=setting.on).to(precision.dtype)
    yield {"TFLOP/s": round(2 * size**3 / timed(lambda: a @ b, 0.4) / 1e12, 1)}


def convolutions(setting: Setting, precision: Precision, layout: str) -> Iterator[Row]:
    """Of the first level of Stable Diffusion's UNet."""
    precision.use()
    loosen()
    rows, width, side = (1, 32, 16) if setting.small else (16, 320, 64)
    x = torch.randn(rows, width, side, side, device=setting.on)
    weight = torch.randn(width, width, 3, 3, device=setting.on)
    x, weight = (t.to(precision.dtype, memory_format=LAYOUTS[layout]) for t in (x, weight))
    flops = 2 * rows * side * side * width * width * 9
    yield {"TFLOP/s": round(flops / timed(lambda: F.conv2d(x, weight, padding=1)) / 1e12, 1)}


def copies(setting: Setting) -> Iterator[Row]:
    """Within the device; a byte is read and written."""
    a = torch.empty(1 << (20 if setting.small else 32), dtype=torch.uint8, device=setting.on)
    b = torch.empty_like(a)
    yield {"TB/s, read and written": round(2 * a.numel() / timed(lambda: b.copy_(a)) / 1e12, 2)}


def nodes(setting: Setting, branches: int) -> Iterator[Row]:
    """Tiny kernels in a graph, one after the other, or in branches that may run together."""
    each = _NODES // branches

    def chain(x: torch.Tensor) -> None:
        for _ in range(each):
            x.add_(1.0)

    tensors = [torch.zeros(256, device=setting.on) for _ in range(branches)]
    chains = [partial(chain, x) for x in tensors]
    taken = timed(graphed(side_by_side(chains)))
    yield {"us per node": round(taken * 1e6 / (each * branches), 3)}


def calls(setting: Setting) -> Iterator[Row]:
    """What the host spends on what a tick may consist of."""
    rows = [torch.zeros(128, dtype=torch.int64) for _ in range(8)]
    there = [tensor.to(setting.on) for tensor in rows]
    stage = torch.zeros(8, 128, dtype=torch.int64, pin_memory=True)
    packed, noise = stage.to(setting.on), torch.zeros(4, 8, 8)
    place = torch.arange(16, device=setting.on)

    def pinned() -> None:
        for target, source in zip(there, rows, strict=True):
            target.copy_(source.pin_memory(), non_blocking=True)

    for name, call in {
        "eight tensors, each pinned and copied": pinned,
        "one copy from pinned memory": lambda: packed.copy_(stage, non_blocking=True),
        "a tensor from a list (waits)": lambda: packed.new_tensor([1.0]),
        "the noise of an image, from pageable memory": lambda: noise.to(setting.on),
        "sixteen slots by index": lambda: packed[0].index_copy_(0, place, packed[1, :16]),
    }.items():
        yield {"call": name, "us": host_microseconds(setting, call)}
