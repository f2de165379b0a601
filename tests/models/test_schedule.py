"""The forward process and the timesteps, against their definitions."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from models.schedule import add_noise, alpha_bars, betas, timestep_pairs, velocity
from tests.tiny import SCHEDULE

T = SCHEDULE.num_train_timesteps


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_every_step_count_falls_strictly_is_chained_and_ends_clean(
    spacing: Any, offset: int
) -> None:
    config = replace(SCHEDULE, timestep_spacing=spacing, steps_offset=offset)
    for steps in range(1, T + 1):
        pairs = timestep_pairs(config, steps)
        visited = [t for t, _ in pairs]
        assert len(pairs) == steps
        assert all(0 <= t < T for t in visited)
        assert all(before > after for before, after in pairwise(visited))
        assert [t_prev for _, t_prev in pairs] == [*visited[1:], -1]
        if spacing != "leading":
            assert visited[0] == T - 1, "noise is trained on at T - 1"


def test_four_steps_of_each_spacing() -> None:
    """Lin et al. 2024, table 2, counted from 0."""

    def visited(spacing: Any, offset: int = 0) -> list[int]:
        config = replace(SCHEDULE, timestep_spacing=spacing, steps_offset=offset)
        return [t for t, _ in timestep_pairs(config, 4)]

    assert visited("leading") == [750, 500, 250, 0]
    assert visited("leading", 1) == [751, 501, 251, 1]
    assert visited("trailing", 1) == [999, 749, 499, 249]
    assert visited("linspace", 1) == [999, 666, 333, 0]


@pytest.mark.parametrize("steps", [0, -1, T + 1])
def test_step_counts_out_of_range_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {steps}; allowed: 1 to {T}"):
        timestep_pairs(SCHEDULE, steps)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_its_start() -> None:
    plain = alpha_bars(replace(SCHEDULE, rescale_betas_zero_snr=False), torch.float64)
    rescaled = alpha_bars(SCHEDULE, torch.float64)
    assert rescaled[T - 1] == 0
    assert rescaled[0] == pytest.approx(plain[0].item(), rel=1e-12)
    # Algorithm 1 is affine in sqrt(alpha-bar).
    root, before = rescaled[:T].sqrt(), plain[:T].sqrt()
    affine = (before - before[-1]) * before[0] / (before[0] - before[-1])
    torch.testing.assert_close(root, affine, rtol=1e-9, atol=1e-12)


def test_the_clean_end() -> None:
    assert alpha_bars(SCHEDULE)[-1] == 1
    kept = alpha_bars(replace(SCHEDULE, set_alpha_to_one=False))
    assert kept[-1] == kept[0]


def test_squared_cosine_follows_its_formula_until_the_cap() -> None:
    config = replace(SCHEDULE, beta_schedule="squaredcos_cap_v2", rescale_betas_zero_snr=False)
    beta, alpha_bar = betas(config, torch.float64), alpha_bars(config, torch.float64)
    assert beta.max() == 0.999

    def signal(t: float) -> float:  # Nichol & Dhariwal 2021, eq. 17
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    for t in (0, 1, 250, 700, 998):
        assert alpha_bar[t].item() == pytest.approx(signal(t + 1) / signal(0), rel=1e-9)


def test_noise_and_velocity_turn_the_circle() -> None:
    """(x_t, v) is (x_0, eps) turned by an angle: turning back gives both again."""
    draw = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 2, 4, 4, generator=draw, dtype=torch.float64)
    alpha_bar = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)[:, None, None, None]
    x_t, v = add_noise(x0, noise, alpha_bar), velocity(x0, noise, alpha_bar)
    cos, sin = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    torch.testing.assert_close(cos * x_t - sin * v, x0)
    torch.testing.assert_close(sin * x_t + cos * v, noise)
