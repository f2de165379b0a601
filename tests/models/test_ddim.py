"""DDIM against Gaussian data, for which the best predictor and the whole trajectory are known.

x_0 ~ N(m, s^2): x_t ~ N(a m, a^2 s^2 + 1 - a^2) with a^2 = alpha-bar_t, and the best eps is linear
in x_t. A DDIM step is then an affine map of x, and many small ones tend to the flow of the
probability-flow equation, under which the quantile of x never changes.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from models.ddim import Prediction, coefficients, ddim_step, guide, sigma
from models.schedule import alpha_bars, timestep_pairs, velocity
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


def run(x: Tensor, steps: int, prediction: Prediction, eta: float = 0.0) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    for t, t_prev in timestep_pairs(CONFIG, steps):
        output = best_output(x, ALPHA_BAR[t], prediction)
        noise = torch.randn(x.shape, generator=draw, dtype=x.dtype) if eta else None
        step = coefficients(ALPHA_BAR[t], ALPHA_BAR[t_prev], prediction, eta)
        x, _ = ddim_step(x, output, step.expand(len(x), -1), noise=noise)
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
    for t, t_prev in timestep_pairs(CONFIG, 50):
        now, then = ALPHA_BAR[t], ALPHA_BAR[t_prev]
        std = sigma(now, then, 1.0)
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
    torch.testing.assert_close(sigma(now, then, 1.0), expected)


def test_rows_do_not_see_each_other() -> None:
    draw = torch.Generator().manual_seed(0)
    x, output, noise = torch.randn(3, 6, 2, 4, 4, generator=draw)
    now, then = (
        alpha_bars(SCHEDULE)[[999, 800, 600, 400, 200, 0]],
        alpha_bars(SCHEDULE)[[700, 400, 599, 0, 100, -1]],
    )
    etas = [0.0, 0.5, 1.0, 0.0, 0.3, 1.0]
    steps = torch.stack(
        [coefficients(now[i], then[i], "v_prediction", eta) for i, eta in enumerate(etas)]
    )
    together, _ = ddim_step(x, output, steps, noise=noise)
    for i in range(6):
        row = slice(i, i + 1)
        alone, _ = ddim_step(x[row], output[row], steps[row], noise=noise[row] if etas[i] else None)
        assert torch.equal(together[row], alone)


def test_clipping_bounds_the_clean_sample_and_keeps_eps() -> None:
    x, output = torch.full((1, 1, 1, 1), 4.0), torch.full((1, 1, 1, 1), 0.5)
    now, then = torch.tensor([0.25]), torch.tensor([0.81])
    clipped, _ = ddim_step(x, output, coefficients(now, then, "epsilon"), clip=1.0)
    assert clipped.item() == pytest.approx(0.9 * 1.0 + 0.19**0.5 * 0.5)


def test_pure_noise_has_a_finite_first_step_for_v_and_sample() -> None:
    zero, later = torch.zeros(2), torch.full((2,), 0.5)
    for prediction in PREDICTIONS[1:]:
        for eta in (0.0, 1.0):
            assert coefficients(zero, later, prediction, eta).isfinite().all()


def test_guidance_by_hand() -> None:
    conditional, unconditional = torch.full((3, 1, 1, 1), 2.0), torch.full((3, 1, 1, 1), 1.0)
    guided = guide(conditional, unconditional, torch.tensor([0.0, 1.0, 3.0]))
    assert guided.flatten().tolist() == [1.0, 2.0, 4.0]
