"""The samplers' steps: for a list of noise levels, what each evaluation of the network does.

Here are those that look at one step alone; multistep.py has those that remember earlier ones.

x is kept variance-preserving, x = alpha x0 + sigma eps with alpha^2 + sigma^2 = 1: papers that keep
x / alpha (Karras et al. 2022, k-diffusion) are written in it here. Every solver is given the levels
it steps through, noisiest first and the one where it ends last; so there is one level more than
steps. A level's quantities have no mark, those of the next one a 1.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from models.schedule import Level

HISTORY = 3  # y of earlier evaluations that a sampler may remember, per image
Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the network and the update that follows, linear but for the bound.

        y  = clamp(p x + q output, -clip, clip)
        x' = a x + b y + e output + sum_k c_k h_k + d noise

    h is a ring of `HISTORY` earlier y, and `kept` where this y goes after the update; `HISTORY` is
    nowhere. `x0` has u and v of the clean latent as it is seen now, u x + v output.
    """

    t: float
    y: tuple[float, float]
    x0: tuple[float, float]
    a: float
    b: float
    e: float = 0.0
    c: Mapping[int, float] = field(default_factory=dict)
    d: float = 0.0
    clip: float = math.inf
    kept: int = HISTORY


def to_x0(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """(p, q) of x0 = p x + q output.

    epsilon: Song et al. 2021, eq. 9; v: Salimans & Ho 2022, app. D.
    """
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    return (alpha, -sigma) if prediction == "v_prediction" else (0.0, 1.0)


def to_eps(prediction: Prediction, alpha: float, sigma: float) -> tuple[float, float]:
    """(u, v) of eps = u x + v output; the inverse of `to_x0` at x = alpha x0 + sigma eps."""
    if prediction == "epsilon":
        return 0.0, 1.0
    return (sigma, alpha) if prediction == "v_prediction" else (1 / sigma, -alpha / sigma)


def ddim(
    visited: Sequence[int],
    alpha_bar: Sequence[float],
    prediction: Prediction,
    *,
    eta: float = 0.0,
    clip: float = math.inf,
) -> list[Evaluation]:
    """Song et al. 2021, eq. 12 and 16. Clipping bounds x0; eps is not derived anew from it.

    `alpha_bar` has one value more than `visited`: where the last step ends.
    """
    made = []
    for t, (bar, bar1) in zip(visited, pairwise(alpha_bar), strict=True):
        alpha, sigma = math.sqrt(bar), math.sqrt(1 - bar)
        std = eta * math.sqrt(max((1 - bar1) / (1 - bar) * (1 - bar / bar1), 0.0))
        direction = math.sqrt(max(1 - bar1 - std * std, 0.0))
        x0, (u, v) = to_x0(prediction, alpha, sigma), to_eps(prediction, alpha, sigma)
        a, b, e = direction * u, math.sqrt(bar1), direction * v
        made.append(Evaluation(t, x0, x0, a, b, e, d=std, clip=clip))
    return made


def lcm(
    levels: Sequence[Level],
    prediction: Prediction,
    *,
    timestep_scaling: float,
    clip: float = math.inf,
) -> list[Evaluation]:
    """Multistep consistency sampling, Luo et al. 2023, algorithm 3.

    f(x, t) = c_skip x + c_out x0 is the consistency function of their eq. 9, with sigma_data 1/2.
    """
    made = []
    for level, later in pairwise(levels):
        scaled = level.t * timestep_scaling
        c_skip = 0.25 / (scaled**2 + 0.25)
        c_out = scaled / math.sqrt(scaled**2 + 0.25)
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a, b, d = later.alpha * c_skip, later.alpha * c_out, later.sigma
        made.append(Evaluation(level.t, x0, x0, a, b, d=d, clip=clip))
    return made


def euler(
    levels: Sequence[Level], prediction: Prediction, *, ancestral: bool = False
) -> list[Evaluation]:
    """Euler's method, Karras et al. 2022, algorithm 1 without lines 6 to 8.

    Ancestral, after k-diffusion: a step to s_down, below the next s, and noise of s_up on top. In
    x / alpha, a step is (s_down / s) x + (1 - s_down / s) x0 + s_up noise.
    """
    made = []
    for level, later in pairwise(levels):
        s_down, s_up = ancestral_step(level.ratio, later.ratio) if ancestral else (later.ratio, 0.0)
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a = later.alpha * s_down / level.sigma
        b = later.alpha * (1 - s_down / level.ratio)
        made.append(Evaluation(level.t, x0, x0, a, b, d=later.alpha * s_up))
    return made


def ancestral_step(s: float, s1: float) -> tuple[float, float]:
    """(s_down, s_up) with s_down^2 + s_up^2 = s1^2: the DDPM posterior, in ratios."""
    return s1 * s1 / s, s1 * math.sqrt(max(1 - (s1 / s) ** 2, 0.0))


def heun(
    levels: Sequence[Level],
    prediction: Prediction,
    *,
    clip: float = math.inf,
    exponential: bool = False,
) -> list[Evaluation]:
    """Heun's method, Karras et al. 2022, algorithm 1: two evaluations per step, one in the last.

    The second begins where Euler's step ended. The trapezoid of both slopes (line 8) leads there as
    well but for (1 - r) / (2 r) (x0' - x0) in x / alpha, with r = s1 / s. `exponential` takes the
    trapezoid of x0 instead, (1 - r) / 2 (x0' - x0), as Lu et al. 2022b integrate: it stays bounded
    from a level that is all noise, where r is nearly 0.
    """
    made = []
    for level, later in pairwise(levels):
        r = later.ratio / level.ratio
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a, b = later.sigma / level.sigma, later.alpha * (1 - r)
        made.append(Evaluation(level.t, x0, x0, a, b, clip=clip, kept=0))
        if later.sigma:
            x0 = to_x0(prediction, later.alpha, later.sigma)
            b = later.alpha * (1 - r) / (2 if exponential else 2 * r)
            made.append(Evaluation(later.t, x0, x0, 1.0, b, c={0: -b}, clip=clip))
    return made


def dpmpp_2s_a(levels: Sequence[Level], prediction: Prediction) -> list[Evaluation]:
    """Ancestral DPM-Solver++(2S), Lu et al. 2022b, algorithm 1 with r_1 = 1/2, after k-diffusion.

    A step goes to s_down and adds noise of s_up; half way to s_down in log s is s1. The second half
    begins again at the step's own x, which is written here by what the first half made of it. In
    x / alpha, with r = s1 / s:

        x_mid = r x + (1 - r) x0
        x'    = r^2 x + (1 - r^2) x0_mid = r x_mid - r (1 - r) x0 + (1 - r^2) x0_mid
    """
    made = []
    for level, later in pairwise(levels):
        r = later.ratio / level.ratio
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a, b = later.sigma / level.sigma, later.alpha * (1 - r)
        made.append(Evaluation(level.t, x0, x0, a, b, kept=0))
        if later.sigma:
            _, s_up = ancestral_step(level.ratio, later.ratio)
            x0 = to_x0(prediction, later.alpha, later.sigma)
            b, c = later.alpha * (1 - r * r), {0: -later.alpha * r * (1 - r)}
            made.append(Evaluation(later.t, x0, x0, r, b, c=c, d=later.alpha * s_up))
    return made
