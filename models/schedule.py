"""The forward process: noise schedules, and the timesteps that a sampler visits.

alpha-bar_t is the share of signal variance left at timestep t: x_t = sqrt(alpha-bar_t) x_0 +
sqrt(1 - alpha-bar_t) eps, Ho et al. 2020, eq. 4.
"""

import math

import torch
from torch import Tensor

from models.config import DDIMConfig


def betas(config: DDIMConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """Noise variances beta_t of the forward steps, (T,)."""
    steps = config.num_train_timesteps
    if config.trained_betas is not None:
        beta = torch.tensor(config.trained_betas, dtype=dtype)
    elif config.beta_schedule == "linear":  # Ho et al. 2020, sec. 4
        beta = torch.linspace(config.beta_start, config.beta_end, steps, dtype=dtype)
    elif config.beta_schedule == "scaled_linear":  # linear in sqrt(beta); Rombach et al. 2022
        root = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, steps, dtype=dtype)
        beta = root**2
    else:  # squaredcos_cap_v2: Nichol & Dhariwal 2021, eq. 17, with beta capped at 0.999
        signal = [
            math.cos((i / steps + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(steps + 1)
        ]
        beta = torch.tensor(
            [min(1 - signal[i + 1] / signal[i], 0.999) for i in range(steps)], dtype=dtype
        )
    return rescale_zero_terminal_snr(beta) if config.rescale_betas_zero_snr else beta


def rescale_zero_terminal_snr(beta: Tensor) -> Tensor:
    """Shift and scale sqrt(alpha-bar) so that its last value is 0. Lin et al. 2024, algorithm 1."""
    root = (1 - beta).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    root = (root - last) * (first / (first - last))
    alpha_bar = root**2
    return 1 - torch.cat([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def alpha_bars(config: DDIMConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """alpha-bar_t for t = 0..T-1 and, one past the end, that of the clean end: (T + 1,).

    Indexing with t_prev = -1 therefore gives the clean end: 1, or alpha-bar_0 where the
    configuration says `set_alpha_to_one: false`.
    """
    alpha_bar = (1 - betas(config, dtype)).cumprod(0)
    end = alpha_bar.new_ones(1) if config.set_alpha_to_one else alpha_bar[:1]
    return torch.cat([alpha_bar, end])


def timestep_pairs(config: DDIMConfig, steps: int) -> list[tuple[int, int]]:
    """The (t, t_prev) that a sampler visits, noisiest first; the last t_prev is -1, the clean end.

    Every pair's t_prev is the next pair's t. Spacings: Lin et al. 2024, table 2. Two deliberate
    differences from diffusers: t_prev comes from this list and never from a stride, and a single
    `linspace` step starts at T - 1, not 0.

    Raises:
        ValueError: `steps` outside 1..T.
    """
    total, spacing = config.num_train_timesteps, config.timestep_spacing
    if not 1 <= steps <= total:
        raise ValueError(f"steps is {steps}; allowed: 1 to {total}")
    if spacing == "trailing":
        visited = [round(total * (steps - i) / steps) - 1 for i in range(steps)]
    elif spacing == "leading":
        stride = total // steps
        offset = min(config.steps_offset, total - 1 - (steps - 1) * stride)
        visited = [i * stride + offset for i in reversed(range(steps))]
    else:
        gap = (total - 1) / max(steps - 1, 1)
        visited = [round((total - 1) - i * gap) for i in range(steps)]
    return list(zip(visited, [*visited[1:], -1], strict=True))


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t from x_0 and noise. Ho et al. 2020, eq. 4. `alpha_bar` broadcasts against x_0."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """V = sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0. Salimans & Ho 2022, app. D."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
