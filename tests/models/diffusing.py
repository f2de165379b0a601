"""diffusers' own schedulers, as an oracle: in float32 as they are, or run in doubles."""

import importlib
import types
from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

CLASSES = {
    "ddim": "DDIMScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "dpmpp_2m": "DPMSolverMultistepScheduler",
    "dpmpp_2m_sde": "DPMSolverMultistepScheduler",
    "dpmpp_3m": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "pndm": "PNDMScheduler",
    "lcm": "LCMScheduler",
}
SETTLED: dict[str, dict[str, Any]] = {
    "dpmpp_2m": {"solver_order": 2, "algorithm_type": "dpmsolver++"},
    "dpmpp_2m_sde": {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
    "dpmpp_3m": {"solver_order": 3, "algorithm_type": "dpmsolver++"},
    "pndm": {"skip_prk_steps": True},
}


class Doubles(types.ModuleType):
    """A module whose float32 is float64."""

    def __init__(self, module: types.ModuleType) -> None:
        super().__init__(module.__name__)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, "float64" if name == "float32" else name)


def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run all schedulers in float64, where that is the default dtype as well."""
    for name in set(CLASSES.values()):
        module = importlib.import_module(getattr(diffusers, name).__module__)
        monkeypatch.setattr(module, "torch", Doubles(torch))
        monkeypatch.setattr(module, "np", Doubles(np))


def run(
    scheduler: Any,
    steps: int,
    network: Callable[[Tensor, float], Tensor],
    x: Tensor,
    noises: Callable[[], Tensor],
    *,
    eta: float = 0.0,
    timesteps: Sequence[float] | None = None,
) -> tuple[Tensor, list[float]]:
    """A whole trajectory from N(0, I), and the timesteps of its evaluations.

    `timesteps` are what the network is given in place of the scheduler's own.
    """
    module = importlib.import_module(type(scheduler).__module__)
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    x = (x * scheduler.init_noise_sigma).to(x.dtype)
    own = getattr(module, "randn_tensor", None)
    module.randn_tensor = lambda *_, **__: noises()  # type: ignore[attr-defined]
    try:
        for i, t in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(x, t).to(x.dtype)
            given = float(t) if timesteps is None else timesteps[i]
            extra = {}
            if eta:
                extra = {"eta": eta, "variance_noise": noises()}
            x = scheduler.step(network(scaled, given), t, x, **extra).prev_sample.to(x.dtype)
    finally:
        if own is not None:
            module.randn_tensor = own  # type: ignore[attr-defined]
    return x, [float(t) for t in scheduler.timesteps]
