"""torch.compile for the UNet: one program per number of rows, or a refusal that says what it lacks.

Its parts are imported where they are used: they take seconds.
"""

import importlib.util
import shutil

import torch

from models.backbone import UNetBackbone

_PROGRAMS = 64  # more than there are buckets; beyond PyTorch's own limit of 8 it runs uncompiled
_C_COMPILERS = ("gcc", "clang")  # Triton looks for these


def compile_unet(unet: UNetBackbone, device: torch.device) -> None:
    """Compile a UNet in place, when it is first run with a number of rows.

    Raises:
        ValueError: there is no compiler, or no Triton for a GPU.
    """
    if lack := _lacking(device):
        raise ValueError(f"compile is true, which needs {lack}")
    import torch._dynamo.config as limits

    limits.recompile_limit = _PROGRAMS
    limits.fail_on_recompile_limit_hit = True
    # Deterministic: kernels are not chosen by timing.
    unet.compile(dynamic=False, options={"deterministic": True})


def _lacking(device: torch.device) -> str | None:
    """What is not installed; None where nothing lacks."""
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            return "Triton, which is not installed: pip install triton"
        if not any(map(shutil.which, _C_COMPILERS)):
            return "a C compiler, which is not installed: apt-get install gcc"
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "a C++ compiler, which is not installed: apt-get install g++"
    return None
