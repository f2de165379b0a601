"""DDIM against Gaussian data, for which the best predictor and the whole trajectory are known.

x_0 ~ N(m, s^2): x_t ~ N(a m, a^2 s^2 + 1 - a^2) with a^2 = alpha-bar_t, and the best eps is linear
in x_t. A DDIM step is then an affine map of x, and many small ones tend to the flow of the
probability-flow equation, under which the quantile of x never changes.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.config import DDIMConfig
from models.samplers import COEFFICIENTS, COLUMNS, step, trajectory
from models.schedule import alpha_bars, timestep_pairs, velocity
from models.schedulers import SchedulerConfig
from models.solvers import Prediction
from tests.tiny import SCHEDULE

PREDICTIONS: tuple[Prediction, ...] = ("epsilon", "v_prediction", "sample")
M, S = 0.7, 0.4
CONFIG = replace(SCHEDULE, rescale_betas_zero_snr=False)
ALPHA_BAR = alpha_bars(CONFIG, torch.float64)


def spread(alpha_bar: Tensor) -> Tensor:
    """Standard deviation of x_t."""
    return (alpha_bar * S**2 + 1 - alpha_bar).sqrt()


def best_eps(x: Tensor, alpha_bar: Tensor) -> Tensor:
    """E[eps | x_t]."""
    return (1 - alpha_bar).sqrt() * (x - alpha_bar.sqrt() * M) / spread(alpha_bar) ** 2


def best_output(x: Tensor, alpha_bar: Tensor, prediction: Prediction) -> Tensor:
    eps = best_eps(x, alpha_bar)
    x0 = (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    return {"epsilon": eps, "sample": x0, "v_prediction": velocity(x0, eps, alpha_bar)}[prediction]


def table(config: DDIMConfig, steps: int, eta: float = 0.0) -> Tensor:
    return trajectory(SchedulerConfig.of(config), "ddim", steps, eta=eta).coefficients


def run(x: Tensor, steps: int, prediction: Prediction, eta: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    rows = table(replace(CONFIG, prediction_type=prediction), steps, eta)
    for (t, _), row in zip(timestep_pairs(CONFIG, steps), rows, strict=True):
        output = best_output(x, ALPHA_BAR[t], prediction)
        noise = torch.randn(x.shape, generator=draw, dtype=x.dtype) if eta else None
        x, _ = step(x, output, row.expand(len(x), -1), noise=noise)
    return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 1000])
def test_a_trajectory_is_the_product_of_its_closed_form_steps(
    prediction: Prediction, steps: int
) -> None:
    """In z = (x - a m) / spread a step multiplies by (a a' s^2 + b b') / (spread spread')."""
    x = torch.randn(5, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pairs = timestep_pairs(CONFIG, steps)
    factor = 1.0
    for t, t_prev in pairs:
        now, then = ALPHA_BAR[t], ALPHA_BAR[t_prev]
        mixed = (now * then).sqrt() * S**2 + ((1 - now) * (1 - then)).sqrt()
        factor = factor * mixed / (spread(now) * spread(then))
    first = ALPHA_BAR[pairs[0][0]]
    z = (x - first.sqrt() * M) / spread(first)
    expected = M + S * factor * z
    torch.testing.assert_close(run(x, steps, prediction), expected, rtol=1e-9, atol=1e-10)


def test_many_steps_carry_every_quantile_to_the_data() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    first = ALPHA_BAR[CONFIG.num_train_timesteps - 1]
    exact = M + S * (x - first.sqrt() * M) / spread(first)
    errors = [(run(x, n, "v_prediction") - exact).abs().max().item() for n in (10, 100, 1000)]
    assert errors[0] > 5 * errors[1] > 25 * errors[2], "first order at least"
    assert errors[2] < 0.01 < S


def test_eta_one_spreads_as_its_recursion_says() -> None:
    """A step is affine in x and adds noise, so the variance follows var' = k^2 var + sigma^2."""
    variance = 1.0
    noises = table(CONFIG, 50, 1.0)[:, COLUMNS.index("d")]
    for (t, t_prev), std in zip(timestep_pairs(CONFIG, 50), noises, strict=True):
        now, then = ALPHA_BAR[t], ALPHA_BAR[t_prev]
        direction = (1 - then - std**2).sqrt()
        k = ((now * then).sqrt() * S**2 + (1 - now).sqrt() * direction) / spread(now) ** 2
        variance = float(k**2 * variance + std**2)
    draw = torch.Generator().manual_seed(0)
    made = run(
        torch.randn(40_000, 1, 1, 1, generator=draw, dtype=torch.float64), 50, "epsilon", eta=1.0
    )
    # Four standard errors: std / sqrt(2 n).
    assert made.std().item() == pytest.approx(variance**0.5, abs=4 * variance**0.5 / 80_000**0.5)


def test_sigma_of_eta_one_is_that_of_the_ddpm_posterior() -> None:
    """Ho et al. 2020, eq. 7: beta-tilde_t = (1 - ab_{t-1}) / (1 - ab_t) * beta_t."""
    now, then = ALPHA_BAR[1:1000], ALPHA_BAR[0:999]
    beta = 1 - now / then
    expected = ((1 - then) / (1 - now) * beta).sqrt()
    noises = table(CONFIG, 1000, 1.0)[:, COLUMNS.index("d")]
    torch.testing.assert_close(noises.flip(0)[1:], expected)


def equation_12(now: Tensor, then: Tensor, prediction: Prediction, eta: float) -> Tensor:
    """(p, q, a, b, e, d) of Song et al. 2021, eq. 12 and 16, on tensors."""
    signal, noise = now.sqrt(), (1 - now).sqrt()
    zero, one = torch.zeros_like(signal), torch.ones_like(signal)
    p, q, u, v = {
        "epsilon": (1 / signal, -noise / signal, zero, one),
        "v_prediction": (signal, -noise, noise, signal),
        "sample": (zero, one, 1 / noise, -signal / noise),
    }[prediction]
    std = eta * ((1 - then) / (1 - now) * (1 - now / then)).clamp(min=0).sqrt()
    direction = (1 - then - std**2).clamp(min=0).sqrt()
    return torch.stack([p, q, direction * u, then.sqrt(), direction * v, std], dim=-1)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("eta", [0.0, 0.37, 1.0])
def test_in_float32_a_step_is_equation_12_to_the_last_bit(
    prediction: Prediction, eta: float
) -> None:
    """Images that were drawn before there were other samplers are drawn again as they were."""
    zero = prediction != "epsilon"
    for spacing in ("leading", "trailing", "linspace"):
        config = replace(SCHEDULE, prediction_type=prediction, rescale_betas_zero_snr=zero)
        config = replace(config, timestep_spacing=spacing, set_alpha_to_one=spacing != "leading")
        for steps in (1, 2, 7, 20, 27, 48, 50, 999):
            pairs = torch.tensor(timestep_pairs(config, steps))
            now, then = alpha_bars(config, torch.float64)[pairs].unbind(1)
            made = table(config, steps, eta).float()
            expected = equation_12(now, then, prediction, eta).float()
            assert torch.equal(made[:, [0, 1, 2, 3, 4, COLUMNS.index("d")]], expected)
            assert not made[:, [COLUMNS.index(f"c{k}") for k in range(3)]].any()


def test_clipping_bounds_the_clean_sample_and_keeps_eps() -> None:
    x, output = torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), 0.5)
    row = torch.zeros(1, COEFFICIENTS)
    now, then = torch.tensor([0.25]), torch.tensor([0.81])
    row[:, [0, 1, 2, 3, 4, 8]] = equation_12(now, then, "epsilon", 0.0)
    row[:, COLUMNS.index("clip")] = 1.0
    clipped, y = step(x, output, row)
    assert y.item() == 1
    assert clipped.item() == pytest.approx(0.9 * 1.0 + 0.19**0.5 * 0.5)


def test_the_bound_is_that_of_the_configuration() -> None:
    for clip, bound in ((True, 0.7), (False, float("inf"))):
        config = replace(SCHEDULE, clip_sample=clip, clip_sample_range=0.7)
        assert (table(config, 4)[:, COLUMNS.index("clip")] == bound).all()
