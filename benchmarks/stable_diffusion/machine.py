"""What this processor can do in each precision: on some, bfloat16 is slower than float32.

    python -m benchmarks.stable_diffusion.machine

Prints JSON.
"""

import json
from pathlib import Path

import torch

from benchmarks.limit import calls_per_second
from benchmarks.stable_diffusion.servers import DTYPES

_SIZE = 2048  # of the square matrices
_TELLING = ("amx_bf16", "amx_fp16", "avx512_bf16", "avx512_fp16", "avx512f")


def extensions() -> str:
    """The processor's instructions that decide the speed of a network."""
    path = Path("/proc/cpuinfo")
    known = set(path.read_text(encoding="utf-8").split()) if path.is_file() else set()
    return ", ".join(name for name in _TELLING if name in known) or "unknown"


def products(dtype: torch.dtype) -> float:
    """GFLOP per second of PyTorch's matrix products, on all cores."""
    a, b = torch.randn(2, _SIZE, _SIZE).to(dtype)
    return 2 * _SIZE**3 * calls_per_second(lambda: a @ b) / 1e9


def about() -> dict[str, str]:
    """Lines of the table about the machine."""
    rates = (f"{dtype} {products(getattr(torch, dtype)):.0f}" for dtype in DTYPES)
    return {"instructions": extensions(), "matrix products, GFLOP/s": ", ".join(rates)}


if __name__ == "__main__":
    print(json.dumps(about()))
