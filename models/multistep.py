"""Samplers that remember what earlier steps saw; see solvers.py."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from models.schedule import Level
from models.solvers import HISTORY, Evaluation, Prediction, to_eps, to_x0

# A linear combination of y, by age: the first is of this evaluation.
Ages = NDArray[np.float64]
_SHORT = 15  # steps; a way of fewer ends with lower orders, as in the authors' code


def lms(levels: Sequence[Level], prediction: Prediction, *, order: int = 4) -> list[Evaluation]:
    """Linear multistep (Adams-Bashforth) in s, after k-diffusion: dx / ds = eps in x / alpha.

    y is eps. Its weights are the integrals, over the step, of the polynomials that are 1 at one of
    the last s and 0 at the others. This evaluation's own eps is written as u x + v output: where
    alpha is nearly 0, its weight and that of x are large and cancel.
    """
    made = []
    s = [level.ratio for level in levels]
    for i, (level, later) in enumerate(pairwise(levels)):
        nodes = s[i::-1][:order]
        weights = [later.alpha * _integral(nodes, age, s[i], s[i + 1]) for age in range(len(nodes))]
        u, v = to_eps(prediction, level.alpha, level.sigma)
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a, e = later.alpha / level.alpha + weights[0] * u, weights[0] * v
        c = _ring(i, weights)
        made.append(Evaluation(level.t, (u, v), x0, a, 0.0, e, c=c, kept=i % HISTORY))
    return made


def _integral(nodes: Sequence[float], one: int, begin: float, end: float) -> float:
    """Of Lagrange's polynomial that is 1 at nodes[one]; by Gauss, exact up to degree 3."""
    total = 0.0
    for sign in (-1, 1):
        tau = (begin + end) / 2 + sign * (end - begin) / (2 * math.sqrt(3))
        others = [node for k, node in enumerate(nodes) if k != one]
        total += math.prod((tau - node) / (nodes[one] - node) for node in others)
    return total * (end - begin) / 2


def _ring(i: int, weights: Iterable[float]) -> dict[int, float]:
    """Weights by age, 0 is now -> by position in the ring, where evaluation i keeps at i % HISTORY.

    What is three evaluations old lies where this one will be kept: it is read before.
    """
    return {(i - age) % HISTORY: float(weight) for age, weight in enumerate(weights) if age}


def pndm(levels: Sequence[Level], prediction: Prediction) -> list[Evaluation]:
    """Pseudo linear multistep, Liu et al. 2022, eq. 12; y is the raw output, averaged over steps.

    Every step is their eq. 11, which is DDIM's; the first one is made twice, again with the mean of
    both ends' outputs (improved Euler), which is e / 2 (y' - y) away from where it led.
    """
    made: list[Evaluation] = []
    steps = list(pairwise(levels))
    for i, (level, later) in enumerate(steps):
        a, e = _transfer(prediction, level, later)
        weights = _ADAMS[min(i, HISTORY)]
        x0 = to_x0(prediction, level.alpha, level.sigma)
        b, c = e * weights[0], _ring(i, [e * weight for weight in weights])
        made.append(Evaluation(level.t, (0.0, 1.0), x0, a, b, c=c, kept=i % HISTORY))
        if i == 0 and len(steps) > 1:
            x0 = to_x0(prediction, later.alpha, later.sigma)
            c = {0: -e / 2}
            made.append(Evaluation(later.t, (0.0, 1.0), x0, 1.0, e / 2, c=c))
    return made


# Adams-Bashforth, newest first.
_ADAMS = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def _transfer(prediction: Prediction, level: Level, later: Level) -> tuple[float, float]:
    """(a, e) of DDIM's step x' = alpha1 x0 + sigma1 eps = a x + e output."""
    p, q = to_x0(prediction, level.alpha, level.sigma)
    u, v = to_eps(prediction, level.alpha, level.sigma)
    return later.alpha * p + later.sigma * u, later.alpha * q + later.sigma * v


def dpmpp(
    levels: Sequence[Level],
    prediction: Prediction,
    *,
    order: int,
    sde: bool = False,
    trapezoid: bool = False,
    steps: int,
    lower_order_final: bool = True,
    euler_at_final: bool = False,
) -> list[Evaluation]:
    """DPM-Solver++(2M) and (3M), Lu et al. 2022b, eq. 8 and algorithm 2; y is x0.

    With lambda = log(alpha / sigma) and h = lambda1 - lambda, k = 2 for the SDE and else 1:

        x' = sigma1/sigma e^((1 - k) h) x + alpha1 (f D0 + g1 D1 + g2 D2) + noise
        f  = 1 - e^(-k h),  g1 = f / 2 (midpoint) or 1 - f / (k h),  g2 = 1/2 - (k h - f) / (k h)^2

    D0 is y, D1 and D2 its first two differences in lambda, times h and h^2.

    Args:
        levels: where the steps begin, and the end.
        prediction: what the network predicts.
        order: 2 or 3; the first steps have less behind them.
        sde: add the noise of the SDE; order 2.
        trapezoid: `solver_type` "heun", of order 2.
        steps: of the whole way, of which `levels` may be the end.
        lower_order_final: of fewer than 15 steps, the last is of order 1, the one before it of
            order 2.
        euler_at_final: the last is of order 1 in any case, as it is where it ends clean.
    """
    made, k = [], 2.0 if sde else 1.0
    lambdas = [level.log_snr for level in levels]
    short, last = lower_order_final and steps < _SHORT, len(levels) - 2
    for i, (level, later) in enumerate(pairwise(levels)):
        h = lambdas[i + 1] - lambdas[i]
        this = min(order, i + 1)
        if short:
            this = min(this, last - i + 1)
        if (i == last and euler_at_final) or not later.sigma or not h:
            this = 1
        f = -math.expm1(-k * h)
        weights = f * _age(0)
        if this > 1:
            g1 = 1 - f / (k * h) if trapezoid or this == 3 else f / 2
            d1, d2 = _differences(lambdas, i, this)
            weights = weights + g1 * d1 + (0.5 - (k * h - f) / (k * h) ** 2) * d2
        weights = later.alpha * weights
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a = later.sigma / level.sigma * (math.exp(-h) if sde else 1.0)
        d = later.sigma * math.sqrt(f) if sde else 0.0
        c = _ring(i, weights)
        made.append(Evaluation(level.t, x0, x0, a, float(weights[0]), c=c, d=d, kept=i % HISTORY))
    return made


def _differences(lambdas: Sequence[float], i: int, order: int) -> tuple[Ages, Ages]:
    """D1 and D2 of Lu et al. 2022, app. B.5, in a step from i; D2 is zero below order 3."""
    h = lambdas[i + 1] - lambdas[i]
    r0 = (lambdas[i] - lambdas[i - 1]) / h
    first = (_age(0) - _age(1)) / r0
    if order < 3:
        return first, np.zeros_like(first)
    r1 = (lambdas[i - 1] - lambdas[i - 2]) / h
    change = first - (_age(1) - _age(2)) / r1
    return first + r0 / (r0 + r1) * change, change / (r0 + r1)


def _age(age: int) -> Ages:
    """Y of so many evaluations ago, alone."""
    alone = np.zeros(HISTORY + 1)
    alone[age] = 1
    return alone


def unipc(
    levels: Sequence[Level],
    prediction: Prediction,
    *,
    order: int,
    bh1: bool = False,
    lower_order_final: bool = True,
) -> list[Evaluation]:
    """UniPC of order 1 to 3, Zhao et al. 2023, algorithms 5 and 6 (data prediction); y is x0.

    An evaluation first corrects the step that led to it, then predicts the next. Predictor and
    corrector of a step share all terms but those of B(h), so that the corrected x is

        x - alpha B(h) (sum_k (rho_c,k - rho_p,k) D1_k + rho_c (y - y_1))

    and no x before it need be kept. `bh1`: B(h) = -h, and else e^-h - 1.
    """
    made = []
    lambdas = [level.log_snr for level in levels]
    correction = np.zeros(HISTORY + 1)  # of x, to be made at the next evaluation
    for i, (level, later) in enumerate(pairwise(levels)):
        h = lambdas[i + 1] - lambdas[i]
        this = min(order, i + 1, len(levels) - 1 - i if lower_order_final else order)
        if not later.sigma or not h:
            this = 1
        x0 = to_x0(prediction, level.alpha, level.sigma)
        a = later.sigma / level.sigma
        weights = a * correction - later.alpha * math.expm1(-h) * _age(0)
        if math.isfinite(h) and h:
            b_h = later.alpha * (-h if bh1 else math.expm1(-h))
            predictor, corrector = _residuals(lambdas, i, this, bh1=bh1)
            weights = weights - b_h * predictor
            correction = -b_h * (corrector - _older(predictor))
        c = _ring(i, weights)
        made.append(Evaluation(level.t, x0, x0, a, float(weights[0]), c=c, kept=i % HISTORY))
    return made


def _residuals(lambdas: Sequence[float], i: int, order: int, *, bh1: bool) -> tuple[Ages, Ages]:
    """What multiplies B(h) in a step from i: in the predictor, and one evaluation later.

    rho solves R rho = b, Zhao et al. 2023, eq. 13 with the phi of their app. A; the predictor has
    one equation less, and 1/2 for order 2 as their code has it.
    """
    h = lambdas[i + 1] - lambdas[i]
    r = np.array([*((lambdas[i - k] - lambdas[i]) / h for k in range(1, order)), 1.0])
    differences = np.array([(_age(k) - _age(0)) / r[k - 1] for k in range(1, order)])
    b_h, phi = -h if bh1 else math.expm1(-h), math.expm1(-h) / -h - 1
    powers, b = np.vander(r, order, increasing=True).T, []
    for k in range(1, order + 1):
        b.append(phi * math.factorial(k) / b_h)
        phi = phi / -h - 1 / math.factorial(k + 1)
    rho = np.linalg.solve(powers, np.array(b)) if order > 1 else np.array([0.5])
    if order == 3:
        rho_p = np.linalg.solve(powers[:-1, :-1], np.array(b[:-1]))
    else:
        rho_p = np.full(order - 1, 0.5)
    predictor, corrector = np.zeros(HISTORY + 1), rho[-1] * (_age(0) - _age(1))
    if order > 1:
        predictor, corrector = rho_p @ differences, corrector + _older(rho[:-1] @ differences)
    return predictor, corrector


def _older(weights: Ages) -> Ages:
    """The same y as seen one evaluation later."""
    return np.array([0.0, *weights[:-1]])
