"""Exponential moving average of weights with a power-function profile. Karras et al. 2024 (EDM2).

The average needs no warm-up of its own: at step t the newest weights count 1 - beta_t with
beta_t = (1 - 1/t)^(gamma + 1) (sec. 3.1), so the initial weights are gone after the first step.
"""

import copy

import numpy as np
import torch
from torch import nn


def power_gamma(length: float) -> float:
    """The exponent gamma whose profile has standard deviation `length`, as a share of the run.

    The largest real root of gamma^3 + 7 gamma^2 + (16 - s) gamma + 12 - s, s = length^-2; EDM2,
    algorithm 2. `length` below 0.289.
    """
    s = length**-2
    roots = np.roots([1, 7, 16 - s, 12 - s])
    return float(roots[np.isreal(roots)].real.max())


def power_beta(step: int, gamma: float) -> float:
    """How much of the old average stays at optimizer step 1, 2, ...; EDM2, sec. 3.1."""
    return float((1 - 1 / step) ** (gamma + 1))


class EMA:
    """A second copy of a network that follows the first."""

    def __init__(self, module: nn.Module, length: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.gamma = power_gamma(length)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after optimizer step `step`, counted from 1."""
        torch._foreach_lerp_(
            list(self.module.parameters()),
            [parameter.detach() for parameter in module.parameters()],
            1 - power_beta(step, self.gamma),
        )
