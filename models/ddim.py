"""DDIM's steps and classifier-free guidance, as pure functions of tensors.

A step is linear in the latents x, the network's output and fresh noise:

    x0     = p x + q output
    x_prev = a x + b x0 + c output + d noise

Its six coefficients depend on the schedule and on what the network predicts. They are computed on
the host in float64; the step itself is the same for every row of a batch, so every row may be at a
timestep, a noise level and an eta of its own.

Shapes: x, output and noise are (B, C, h, w); the guidance scale is (B,).
"""

from typing import Literal

import torch
from torch import Tensor

from models.config import DDIMConfig
from models.schedule import alpha_bars, timestep_pairs

Prediction = Literal["epsilon", "v_prediction", "sample"]
COEFFICIENTS = 6  # p, q, a, b, c, d


def trajectory(config: DDIMConfig, steps: int, eta: float) -> tuple[list[int], Tensor]:
    """The timesteps of a sampler, noisiest first, and the coefficients of its steps, (steps, 6).

    Args:
        config: the noise schedule.
        steps: 1..T.
        eta: 0 deterministic to 1 ancestral.

    Raises:
        ValueError: another number of steps.
    """
    pairs = torch.tensor(timestep_pairs(config, steps))
    now, then = alpha_bars(config, torch.float64)[pairs].unbind(1)
    return pairs[:, 0].tolist(), coefficients(now, then, config.prediction_type, eta)


def coefficients(
    alpha_bar: Tensor, alpha_bar_prev: Tensor, prediction: Prediction, eta: float = 0.0
) -> Tensor:
    """(p, q, a, b, c, d) of steps from t to t_prev, (..., 6). Song et al. 2021, eq. 12.

    Args:
        alpha_bar, alpha_bar_prev: signal shares at t and t_prev, (...).
        prediction: what the network predicts. epsilon: Song et al. 2021, eq. 9; v: Salimans & Ho
            2022, app. D; sample: its inverse.
        eta: 0 deterministic to 1 ancestral.
    """
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    zero, one = torch.zeros_like(signal), torch.ones_like(signal)
    # x0 = p x + q output, and eps = u x + v output.
    if prediction == "epsilon":
        p, q, u, v = 1 / signal, -noise / signal, zero, one
    elif prediction == "v_prediction":
        p, q, u, v = signal, -noise, noise, signal
    else:
        p, q, u, v = zero, one, 1 / noise, -signal / noise
    std = sigma(alpha_bar, alpha_bar_prev, eta)
    direction = (1 - alpha_bar_prev - std**2).clamp(min=0).sqrt()
    return torch.stack([p, q, direction * u, alpha_bar_prev.sqrt(), direction * v, std], dim=-1)


def sigma(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: float) -> Tensor:
    """Standard deviation of the noise a step adds, (...). Song et al. 2021, eq. 16."""
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return eta * variance.clamp(min=0).sqrt()


def ddim_step(
    x: Tensor,
    output: Tensor,
    steps: Tensor,
    *,
    noise: Tensor | None = None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """x_t -> x_{t_prev}, and the x0 it goes by.

    Args:
        x: float32 (or float64) latents at t.
        output: the network's prediction at t, guidance already applied.
        steps: the rows' `coefficients`, (B, 6), of x's dtype.
        noise: N(0, I), shaped as x; none is added if absent.
        clip: bound on |x0|, where the checkpoint asks for one; eps is not derived anew.
    """
    p, q, a, b, c, d = (_column(values, x) for values in steps.unbind(1))
    x0 = p * x + q * output
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    x_prev = a * x + b * x0 + c * output
    return (x_prev if noise is None else x_prev + d * noise), x0


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance, Ho & Salimans 2022, eq. 6, with scale = 1 + their w.

    Scale 1 is the conditional prediction, 0 the unconditional one.
    """
    return unconditional + _column(scale, conditional) * (conditional - unconditional)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to multiply rows."""
    return values.view(-1, *[1] * (like.dim() - 1))
