"""Which backend runs a model."""

import importlib.util
import logging

import torch

from app.engine.backends.base import Backend, TooLittleMemory
from app.engine.backends.eager import Eager
from models.machine import free_memory
from models.pipeline import LatentDiffusion

log = logging.getLogger(__name__)


def pick_backend(model: LatentDiffusion, name: str, *, compiled: bool) -> Backend:
    """The backend of this name, or for `auto` the fastest one for the model's device.

    Raises:
        ValueError: it does not fit the device, dtype or memory, or is not installed.
    """
    on_cuda = model.device.type == "cuda"
    installed = importlib.util.find_spec("openvino") is not None
    fits = not on_cuda and model.dtype == torch.float32
    if name == "cuda-graphs" or (name == "auto" and on_cuda):
        from app.engine.backends.cuda import CudaGraphs

        if not on_cuda:
            raise ValueError(f"backend is {name!r}, which needs a GPU; the device is the CPU")
        return CudaGraphs(model, compiled=compiled)
    if name == "openvino":
        if not fits:
            raise ValueError(f"backend is {name!r}, which runs only float32, and only on the CPU")
        if not installed:
            raise ValueError(f"backend is {name!r}, which is not installed: pip install openvino")
        return _openvino(model)
    if name == "auto" and installed and fits:
        try:
            return _openvino(model)
        except TooLittleMemory as error:
            log.warning(
                "%s: the backend 'eager' is used, which needs less memory and is slower", error
            )
    return Eager(model, compiled=compiled)


def _openvino(model: LatentDiffusion) -> Backend:
    """With as much as memory allows; raises `ValueError` where it allows too little."""
    from app.engine.backends.openvino import OpenVino

    return OpenVino(model, free_memory())
