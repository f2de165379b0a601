"""The forward process: noise schedules, and the timesteps that a sampler visits.

alpha-bar_t is the share of signal variance left at timestep t: x_t = sqrt(alpha-bar_t) x_0 +
sqrt(1 - alpha-bar_t) eps, Ho et al. 2020, eq. 4.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.config import ScheduleConfig
from models.sampling import Spacing

_FLOOR = 2.0**-24  # of alpha-bar where a ratio of noise to signal must be finite; as in diffusers
_RHO = 7.0  # Karras et al. 2022, app. D.1


def betas(config: ScheduleConfig, dtype: torch.dtype = torch.float32) -> Tensor:
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


def alpha_bars(config: ScheduleConfig, dtype: torch.dtype = torch.float32) -> Tensor:
    """alpha-bar_t for t = 0..T-1 and, one past the end, that of the clean end: (T + 1,).

    Indexing with t_prev = -1 therefore gives the clean end: 1, or alpha-bar_0 where the
    configuration says `set_alpha_to_one: false`.
    """
    alpha_bar = (1 - betas(config, dtype)).cumprod(0)
    end = alpha_bar.new_ones(1) if config.ends_clean else alpha_bar[:1]
    return torch.cat([alpha_bar, end])


def timestep_pairs(config: ScheduleConfig, steps: int) -> list[tuple[int, int]]:
    """The (t, t_prev) that a sampler visits, noisiest first; the last t_prev is -1, the clean end.

    Every pair's t_prev is the next pair's t. Spacings: Lin et al. 2024, table 2. Two deliberate
    differences from diffusers: t_prev comes from this list and never from a stride, and a single
    `linspace` step starts at T - 1, not 0.

    Raises:
        ValueError: `steps` outside 1..T.
    """
    total, spacing = config.num_train_timesteps, config.timestep_spacing
    _check_steps(steps, total)
    if spacing == "trailing":
        visited = [round(total * (steps - i) / steps) - 1 for i in range(steps)]
    elif spacing == "leading":
        visited = _leading(config, steps, steps)
    else:
        gap = (total - 1) / max(steps - 1, 1)
        visited = [round((total - 1) - i * gap) for i in range(steps)]
    return list(zip(visited, [*visited[1:], -1], strict=True))


def fractional_timesteps(config: ScheduleConfig, steps: int, points: int) -> list[float]:
    """Where samplers that walk noise levels look, noisiest first; the first `steps` of `points`.

    As NumPy spaces and rounds them in diffusers, so that a tie falls to the same side; `linspace`
    is not rounded. A single one is T - 1 here as well.

    Raises:
        ValueError: `steps` outside 1..T.
    """
    total, spacing = config.num_train_timesteps, config.timestep_spacing
    _check_steps(steps, total)
    if spacing == "leading":
        return list(map(float, _leading(config, steps, points)))
    if spacing == "trailing":
        spaced = np.arange(total, 0, -total / steps).round() - 1
    else:
        spaced = np.linspace(0, total - 1, points)[::-1] if points > 1 else np.array([total - 1.0])
    return list(map(float, spaced[:steps]))


def _leading(config: ScheduleConfig, steps: int, points: int) -> list[int]:
    """Multiples of a stride; `steps_offset` is added as far as it leads to T - 1."""
    total, stride = config.num_train_timesteps, config.num_train_timesteps // points
    offset = min(config.steps_offset, total - 1 - (points - 1) * stride)
    return [i * stride + offset for i in reversed(range(points - steps, points))]


def _check_steps(steps: int, total: int) -> None:
    if not 1 <= steps <= total:
        raise ValueError(f"steps is {steps}; allowed: 1 to {total}")


@dataclass(frozen=True)
class Level:
    """A noise level, x = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1, and its timestep."""

    t: float
    alpha: float
    sigma: float

    @classmethod
    def of(cls, t: float, ratio: float) -> "Level":
        """That of a ratio sigma / alpha, which k-diffusion calls sigma."""
        norm = math.hypot(ratio, 1)
        return cls(t, 1 / norm, ratio / norm)

    @property
    def ratio(self) -> float:
        """Sigma / alpha."""
        return self.sigma / self.alpha

    @property
    def log_snr(self) -> float:
        """Log(alpha / sigma), the lambda of Lu et al. 2022; infinite at the clean end."""
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


class NoiseLevels:
    """Sigma / alpha at every timestep, and the timestep of any such ratio."""

    def __init__(self, config: ScheduleConfig) -> None:
        alpha_bar = alpha_bars(config, torch.float64)[:-1].numpy()
        if alpha_bar[-1] == 0:  # zero-terminal SNR; below its neighbour in any case
            alpha_bar[-1] = min([_FLOOR, *(alpha_bar[-2:-1] / 2)])
        self._config = config
        self._ratios = np.sqrt((1 - alpha_bar) / alpha_bar)
        self._numbers = np.arange(len(self._ratios))

    @property
    def lowest(self) -> float:
        """That of timestep 0."""
        return float(self._ratios[0])

    @property
    def highest(self) -> float:
        """That of timestep T - 1."""
        return float(self._ratios[-1])

    def at(self, ratio: float) -> float:
        """The timestep between those whose ratios are nearest, linear in the logarithm."""
        return float(np.interp(math.log(ratio), np.log(self._ratios), self._numbers))

    def walk(self, steps: int, spacing: Spacing) -> list[Level]:
        """Where the steps begin, as k-diffusion's samplers walk; raises `ValueError`."""
        visited = fractional_timesteps(self._config, steps, steps)
        ratios = np.interp(visited, self._numbers, self._ratios)
        if spacing == "default":
            return [Level.of(t, float(ratio)) for t, ratio in zip(visited, ratios, strict=True)]
        placed = place(spacing, float(ratios[0]), float(ratios[-1]), steps)
        return [Level.of(self.at(ratio), ratio) for ratio in placed]

    def walk_whole(self, steps: int, spacing: Spacing, *, nearest: bool) -> list[Level]:
        """As multistep solvers walk: one point more is spaced, and timesteps are whole numbers.

        Args:
            steps: 1..T.
            spacing: `karras` and `exponential` go over all levels, not from the first timestep.
            nearest: round their timesteps to the nearest whole number, and not down.

        Raises:
            ValueError: `steps` outside 1..T.
        """
        points = min(steps + 1, len(self._ratios))
        visited = [round(t) for t in fractional_timesteps(self._config, steps, points)]
        if spacing == "default":
            return [Level.of(t, float(self._ratios[t])) for t in visited]
        placed = place(spacing, self.highest, self.lowest, steps)
        whole = round if nearest else math.floor
        return [Level.of(whole(self.at(ratio)), ratio) for ratio in placed]


def place(spacing: Spacing, high: float, low: float, steps: int) -> list[float]:
    """Noise levels from `high` to `low`; both are among them, but a single one is `high`."""
    ramp = np.linspace(0, 1, steps)
    if spacing == "karras":  # Karras et al. 2022, eq. 5
        root = high ** (1 / _RHO) + ramp * (low ** (1 / _RHO) - high ** (1 / _RHO))
        placed = root**_RHO
    else:
        placed = np.exp(math.log(high) + ramp * math.log(low / high))
    return [high, *map(float, placed[1:-1]), low][:steps]  # the ends to the last bit


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """x_t from x_0 and noise. Ho et al. 2020, eq. 4. `alpha_bar` broadcasts against x_0."""
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def velocity(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """V = sqrt(alpha-bar) eps - sqrt(1 - alpha-bar) x_0. Salimans & Ho 2022, app. D."""
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
