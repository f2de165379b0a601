"""One DDIM step and classifier-free guidance, as pure functions of tensors.

Shapes: x and the network's output are (B, C, h, w); alpha-bar, eta and guidance scale are (B,),
so every row may be at a timestep, a noise level and a guidance of its own.
"""

from typing import Literal

from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "sample"]


def x0_and_eps(
    x: Tensor, output: Tensor, alpha_bar: Tensor, prediction: Prediction
) -> tuple[Tensor, Tensor]:
    """The clean sample and the noise that the network's output implies.

    epsilon: Song et al. 2021, eq. 9; v: Salimans & Ho 2022, app. D; sample: its inverse.
    """
    signal, noise = _column(alpha_bar.sqrt(), x), _column((1 - alpha_bar).sqrt(), x)
    if prediction == "epsilon":
        return (x - noise * output) / signal, output
    if prediction == "v_prediction":
        return signal * x - noise * output, signal * output + noise * x
    return output, (x - signal * output) / noise


def sigma(alpha_bar: Tensor, alpha_bar_prev: Tensor, eta: Tensor) -> Tensor:
    """Standard deviation of the noise a step adds, (B,). Song et al. 2021, eq. 16."""
    variance = (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    return eta * variance.clamp(min=0).sqrt()


def ddim_step(
    x: Tensor,
    output: Tensor,
    alpha_bar: Tensor,
    alpha_bar_prev: Tensor,
    prediction: Prediction,
    *,
    eta: Tensor | None = None,
    noise: Tensor | None = None,
    clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """x_t -> x_{t_prev}, and the x0 it goes by. Song et al. 2021, eq. 12.

    Args:
        x: float32 (or float64) latents at t.
        output: the network's prediction at t, guidance already applied.
        alpha_bar, alpha_bar_prev: signal shares at t and t_prev, (B,).
        prediction: what `output` predicts.
        eta: (B,) in [0, 1], 0 deterministic and 1 ancestral; needs `noise`, N(0, I) shaped as x.
        clip: bound on |x0|, where the checkpoint asks for one; eps is not derived anew.
    """
    x0, eps = x0_and_eps(x, output, alpha_bar, prediction)
    if clip is not None:
        x0 = x0.clamp(-clip, clip)
    if eta is None or noise is None:
        direction = (1 - alpha_bar_prev).sqrt()
        return _column(alpha_bar_prev.sqrt(), x) * x0 + _column(direction, x) * eps, x0
    std = sigma(alpha_bar, alpha_bar_prev, eta)
    direction = (1 - alpha_bar_prev - std**2).clamp(min=0).sqrt()
    mean = _column(alpha_bar_prev.sqrt(), x) * x0 + _column(direction, x) * eps
    return mean + _column(std, x) * noise, x0


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance, Ho & Salimans 2022, eq. 6, with scale = 1 + their w.

    Scale 1 is the conditional prediction, 0 the unconditional one.
    """
    return unconditional + _column(scale, conditional) * (conditional - unconditional)


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B, 1, 1, 1), to multiply rows."""
    return values.view(-1, *[1] * (like.dim() - 1))
