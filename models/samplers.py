"""Samplers as tables: what every evaluation of the network does to x, and one update for all.

    y      = clamp(p x + q output, -clip, clip)
    x_next = a x + b y + e output + c0 h0 + c1 h1 + c2 h2 + d noise

h is a ring of `HISTORY` earlier y. The coefficients depend on the noise schedule, the sampler and
what the network predicts. They are computed on the host in float64; the update itself is the same
for every row of a batch, so every row may be of a sampler, a timestep and a noise level of its own.
x is variance-preserving for every sampler: it is what the network is given.

Shapes: x, output and noise are (B, C, h, w), history is (B, HISTORY, C, h, w), coefficients are
(B, COEFFICIENTS), guidance scales are (B,).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from models import multistep, solvers
from models.config import DDIMConfig, ScheduleConfig
from models.sampling import DEFAULT_SPACING, Spacing
from models.schedule import Level, NoiseLevels, alpha_bars, timestep_pairs
from models.scheduler_classes import (
    DPMSolverConfig,
    HeunConfig,
    LCMConfig,
    LMSConfig,
    MultistepConfig,
    PNDMConfig,
    UniPCConfig,
)
from models.schedulers import SchedulerConfig
from models.solvers import HISTORY as HISTORY
from models.solvers import Evaluation

COLUMNS = ("p", "q", "a", "b", "e", "c0", "c1", "c2", "d", "clip", "u", "v")
COEFFICIENTS = len(COLUMNS)  # u, v: the clean latent is u x + v output, bounded by clip


@dataclass(frozen=True)
class Trajectory:
    """All evaluations of one image.

    `timesteps` (E,) float64 is what the network is given, `coefficients` (E, COEFFICIENTS) float64,
    and `kept` (E,) int64 the place in the ring that y goes to after the update, or `HISTORY` for
    none. The first x is signal * z + noise * N(0, I), z a clean latent.
    """

    timesteps: Tensor
    coefficients: Tensor
    kept: Tensor
    signal: float
    noise: float

    @cached_property
    def draws(self) -> list[bool]:
        """Which evaluations add noise."""
        drawn: list[bool] = (self.coefficients[:, COLUMNS.index("d")] != 0).tolist()
        return drawn

    @cached_property
    def remembers(self) -> bool:
        """Whether any evaluation reads the ring."""
        first = COLUMNS.index("c0")
        return bool((self.coefficients[:, first : first + HISTORY] != 0).any())


def trajectory(
    scheduler: SchedulerConfig,
    sampler: str,
    steps: int,
    *,
    spacing: Spacing = DEFAULT_SPACING,
    eta: float = 0.0,
    start: int = 0,
) -> Trajectory:
    """The evaluations of one image, noisiest first.

    Args:
        scheduler: the model's.
        sampler: of `SAMPLERS`.
        steps: 1..T.
        spacing: how noise levels are placed: one of the sampler's `spacings`.
        eta: 0 deterministic to 1 ancestral; for `ddim` alone.
        start: how many steps are left out at the noisy end, 0..steps-1.

    Raises:
        ValueError: anything else, or a sampler that the model cannot be drawn with.
    """
    scheduler.check(sampler, steps, spacing, eta, start)
    config = scheduler.config(sampler)
    if isinstance(config, DDIMConfig):
        visited, bars = _visited(config, steps)
        made = solvers.ddim(
            visited[start:], bars[start:], config.prediction_type, eta=eta, clip=config.clip
        )
        signal, noise = math.sqrt(bars[start]), math.sqrt(1 - bars[start])
    else:
        levels = _levels(config, steps, spacing)
        made = _evaluations(sampler, config, levels[start:], steps)
        signal, noise = levels[start].alpha, levels[start].sigma
    if not start:
        signal, noise = 0.0, _first_noise(config, noise)
    return _table(made, signal, noise)


def step(
    x: Tensor,
    output: Tensor,
    coefficients: Tensor,
    history: Tensor | None = None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The update that follows an evaluation: the next x, and y.

    Terms are added one by one in the order of the formula, so that a row has the same bits whether
    or not others of its batch have a history or noise: 0 times a finite number changes nothing.

    Args:
        x: float32 (or float64) latents.
        output: the network's prediction, guidance already applied.
        coefficients: the rows' own, of x's dtype.
        history: the rings of the rows, finite throughout; absent where no row remembers.
        noise: N(0, I), shaped as x, finite for every row; absent where no row draws.
    """
    p, q, a, b, e, *c, d, clip, _, _ = _columns(coefficients, x)
    y = torch.minimum(torch.maximum(p * x + q * output, -clip), clip)
    following = a * x + b * y + e * output
    if history is not None:
        for weight, remembered in zip(c, history.unbind(1), strict=True):
            following = following + weight * remembered
    return following if noise is None else following + d * noise, y


def clean(x: Tensor, output: Tensor, coefficients: Tensor) -> Tensor:
    """The clean latent as an evaluation sees it, for previews; arguments as `step` has them."""
    *_, clip, u, v = _columns(coefficients, x)
    return torch.minimum(torch.maximum(u * x + v * output, -clip), clip)


def _columns(coefficients: Tensor, like: Tensor) -> tuple[Tensor, ...]:
    """Each column (B, 1, 1, 1), to multiply rows."""
    return coefficients.view(*coefficients.shape, *[1] * (like.dim() - 1)).unbind(1)


def guide(conditional: Tensor, unconditional: Tensor, scale: Tensor) -> Tensor:
    """Classifier-free guidance, Ho & Salimans 2022, eq. 6, with scale = 1 + their w.

    Scale 1 is the conditional prediction, 0 the unconditional one.
    """
    column = scale.view(-1, *[1] * (conditional.dim() - 1))
    return unconditional + column * (conditional - unconditional)


def _levels(config: ScheduleConfig, steps: int, spacing: Spacing) -> list[Level]:
    """Where the steps of a sampler of this class begin, and where the last one ends."""
    if isinstance(config, PNDMConfig):
        visited, bars = _visited(config, steps)
        return [_level(t, bar) for t, bar in zip([*visited, -1], bars, strict=True)]
    if isinstance(config, LCMConfig):
        bars = alpha_bars(config, torch.float64).tolist()
        return [*(_level(t, bars[t]) for t in _distilled(config, steps)), _CLEAN]
    noise_levels = NoiseLevels(config)
    if isinstance(config, MultistepConfig):
        nearest = spacing == "karras" and not config.rounds_down
        levels = noise_levels.walk_whole(steps, spacing, nearest=nearest)
        end = Level.of(0, noise_levels.lowest)
    else:
        levels = noise_levels.walk(steps, spacing)
        end = Level(0, 1.0, noise_levels.lowest)  # k-diffusion ends in x / alpha
    return [*levels, _CLEAN if config.ends_clean else end]


_CLEAN = Level(-1, 1.0, 0.0)


def _visited(config: ScheduleConfig, steps: int) -> tuple[list[int], list[float]]:
    """Whole timesteps, and alpha-bar of each and of the end."""
    visited = [t for t, _ in timestep_pairs(config, steps)]
    return visited, alpha_bars(config, torch.float64)[[*visited, -1]].tolist()


def _level(t: int, alpha_bar: float) -> Level:
    return Level(t, math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar))


def _distilled(config: LCMConfig, steps: int) -> list[int]:
    """Timesteps of those that the network was distilled at, Luo et al. 2023, sec. 4.3.

    They are `original_inference_steps`, or as many as there are steps.
    """
    count = max(config.original_inference_steps, steps)
    stride = config.num_train_timesteps // count
    return [(count - i * count // steps) * stride - 1 for i in range(steps)]


def _evaluations(
    sampler: str, config: ScheduleConfig, levels: list[Level], steps: int
) -> list[Evaluation]:
    """`levels` are the last of a way of so many steps."""
    prediction = config.prediction_type
    match sampler, config:
        case "euler" | "euler_a", _:
            return solvers.euler(levels, prediction, ancestral=sampler == "euler_a")
        case "dpmpp_2s_a", _:
            return solvers.dpmpp_2s_a(levels, prediction)
        case _, HeunConfig():
            terminal = config.rescale_betas_zero_snr
            return solvers.heun(levels, prediction, clip=config.clip, exponential=terminal)
        case _, LCMConfig():
            scaling = config.timestep_scaling
            return solvers.lcm(levels, prediction, timestep_scaling=scaling, clip=config.clip)
        case _, LMSConfig():
            return multistep.lms(levels, prediction)
        case _, PNDMConfig():
            return multistep.pndm(levels, prediction)
        case _, UniPCConfig():
            return multistep.unipc(
                levels,
                prediction,
                order=config.solver_order,
                bh1=config.solver_type == "bh1",
                lower_order_final=config.lower_order_final,
            )
        case _, DPMSolverConfig():
            return multistep.dpmpp(
                levels,
                prediction,
                order=config.solver_order,
                sde=config.algorithm_type == "sde-dpmsolver++",
                trapezoid=config.solver_type == "heun",
                steps=steps,
                lower_order_final=config.lower_order_final,
                euler_at_final=config.euler_at_final,
            )
    raise ValueError(f"sampler is {sampler!r}")


def _first_noise(config: ScheduleConfig, sigma: float) -> float:
    """What the first N(0, I) is multiplied by.

    k-diffusion begins at s N(0, I) in x / alpha, a little less noise than its level has. diffusers
    does so too, unless timesteps are spaced from the clean end.
    """
    walks_sigmas = not isinstance(config, DDIMConfig | PNDMConfig | LCMConfig | MultistepConfig)
    return sigma if walks_sigmas and config.timestep_spacing != "leading" else 1.0


def _table(made: list[Evaluation], signal: float, noise: float) -> Trajectory:
    rows = [
        [
            *one.y,
            *(one.a, one.b, one.e),
            *(one.c.get(place, 0.0) for place in range(HISTORY)),
            *(one.d, one.clip),
            *one.x0,
        ]
        for one in made
    ]
    return Trajectory(
        torch.tensor([one.t for one in made], dtype=torch.float64),
        torch.tensor(rows, dtype=torch.float64),
        torch.tensor([one.kept for one in made]),
        signal,
        noise,
    )
