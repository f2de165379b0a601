"""Which backend runs a model, and in which dtype its weights are opened for that."""

import importlib.util
import logging

import torch

from app.engine.backends.base import Backend, TooLittleMemory
from app.engine.backends.eager import Eager
from models.machine import free_memory
from models.pipeline import LatentDiffusion

log = logging.getLogger(__name__)


def weights_dtype(device: torch.device, dtype: torch.dtype, backend: str) -> torch.dtype:
    """The dtype to open weights in, so that a backend of this name computes in `dtype`.

    OpenVINO rounds float32 weights to bfloat16 itself. Where a processor has no instructions for
    bfloat16, `auto` takes eager PyTorch, and a line of the log says so.

    Raises:
        ValueError: OpenVINO is asked for, and this processor has none.
    """
    asked = backend in ("openvino", "auto") and _installed()
    if device.type != "cpu" or dtype != torch.bfloat16 or not asked:
        return dtype
    from app.engine.backends.openvino import in_bfloat16

    if in_bfloat16():
        return torch.float32
    lack = "bfloat16 needs a processor with avx512_bf16 or amx_bf16, which this one has not"
    if backend == "openvino":
        raise ValueError(f"{lack}; allowed with backend 'openvino': float32")
    log.warning("%s: the backend 'eager' is used, which is slower than float32", lack)
    return dtype


def pick_backend(
    model: LatentDiffusion, name: str, *, compiled: bool, dtype: torch.dtype | None = None
) -> Backend:
    """The backend of this name, or for `auto` the fastest one for the model's device.

    Args:
        model: its networks.
        name: of the backend, or `auto`.
        compiled: whether PyTorch compiles the UNet.
        dtype: to compute in, where it is not that of the weights; see `weights_dtype`.

    Raises:
        ValueError: it does not fit the device, dtype or memory, or is not installed.
    """
    on_cuda, dtype = model.device.type == "cuda", dtype or model.dtype
    fits = not on_cuda and model.dtype == torch.float32
    if name == "cuda-graphs" or (name == "auto" and on_cuda):
        from app.engine.backends.cuda import CudaGraphs

        if not on_cuda:
            raise ValueError(f"backend is {name!r}, which needs a GPU; the device is the CPU")
        return CudaGraphs(model, compiled=compiled)
    if name == "openvino":
        if not fits:
            raise ValueError(
                f"backend is {name!r}, which runs only float32 and bfloat16, and only on the CPU"
            )
        if not _installed():
            raise ValueError(f"backend is {name!r}, which is not installed: pip install openvino")
        return _openvino(model, dtype)
    if name == "auto" and _installed() and fits:
        try:
            return _openvino(model, dtype)
        except TooLittleMemory as error:
            if dtype != model.dtype:  # eager needs other weights
                raise
            log.warning(
                "%s: the backend 'eager' is used, which needs less memory and is slower", error
            )
    return Eager(model, compiled=compiled)


def _installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _openvino(model: LatentDiffusion, dtype: torch.dtype) -> Backend:
    """With as much as memory allows; raises `ValueError` where it allows too little."""
    from app.engine.backends.openvino import OpenVino

    return OpenVino(model, free_memory(), dtype=dtype)
