"""What the last bits of pixels depend on besides model, parameters and backend, in words.

Libraries choose their kernels by the processor and its instruction set, and change them from one
version to the next. Two machines described by the same words make the same bits; others may, too.
"""

import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
_KINDS = ("vendor_id", "model name", "CPU implementer", "CPU part")  # of x86, of Arm
# Vector units, by the kernel's names. Others (`ibrs`, `md_clear`) come and go with its updates.
_VECTORS = re.compile(r"(sse4|avx|amx|fma|f16c|asimd|sve|sme|fphp|bf16|i8mm)\w*")


def device_name(device: torch.device) -> str:
    """The kind of a device: `cpu`, or the GPU's name, as `cuda:0` may be any."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def platform_of(device: torch.device, backend: str) -> str:
    """The processors, and the libraries that the backend uses.

    The CPU is always included, because it draws the noise.
    """
    parts = [_processor(), torch.backends.cpu.get_cpu_capability(), f"torch {torch.__version__}"]
    if device.type == "cuda":
        gpu = torch.cuda.get_device_properties(device)
        parts.append(f"sm_{gpu.major}{gpu.minor} x {gpu.multi_processor_count}")
        parts.append(f"CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}")
    if backend == "openvino":
        parts += [f"{name} {version(name)}" for name in ("openvino", "numpy")]
    return ", ".join(parts)


def _processor() -> str:
    """The CPU's model and its vector units, as this process sees them."""
    try:
        first = _CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    lines = (line.partition(":") for line in first.splitlines())
    said = {name.strip(): value.strip() for name, _, value in lines}
    flags = said.get("flags", said.get("Features", "")).split()
    kinds = [said[name] for name in _KINDS if name in said]
    return " ".join([platform.machine(), *kinds, *sorted(filter(_VECTORS.fullmatch, flags))])
