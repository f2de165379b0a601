"""Which backend runs a model."""

import importlib.util

import torch

from app.engine.backends.base import Backend
from app.engine.backends.eager import Eager
from models.pipeline import LatentDiffusion


def pick_backend(model: LatentDiffusion, name: str, *, compiled: bool) -> Backend:
    """The backend of this name, or for `auto` the fastest there is for the model's device.

    Raises:
        ValueError: it does not fit the device or dtype, or is not installed.
    """
    on_cuda = model.device.type == "cuda"
    installed = importlib.util.find_spec("openvino") is not None
    fits = not on_cuda and model.dtype == torch.float32
    if name == "auto":
        name = "cuda-graphs" if on_cuda else "openvino" if installed and fits else "eager"
    if name == "cuda-graphs":
        from app.engine.backends.cuda import CudaGraphs

        if not on_cuda:
            raise ValueError(f"backend is {name!r}, which needs a GPU; the device is the CPU")
        return CudaGraphs(model, compiled=compiled)
    if name == "openvino":
        if not fits:
            raise ValueError(f"backend is {name!r}, which runs float32 on the CPU alone")
        if not installed:
            raise ValueError(f"backend is {name!r}, which is not installed: pip install '.[cpu]'")
        from app.engine.backends.openvino import OpenVino

        return OpenVino(model)
    return Eager(model, compiled=compiled)
