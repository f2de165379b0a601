"""How far generated images are from real ones, in a space of features."""

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Fréchet distance between the Gaussians of two sets of features. Heusel et al. 2017, eq. 6.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2)), the trace of the root taken from the
    eigenvalues of the symmetric C_a^(1/2) C_b C_a^(1/2). Features are (N, D) float64.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return float(distance)


def precision_recall(fake: Tensor, real: Tensor, k: int = 3) -> tuple[float, float]:
    """Share of fakes inside the real manifold, and of reals inside the fake one.

    A manifold is the union of balls that reach each point's k-th neighbour. Kynkäänniemi et al.
    2019, eq. 1-2.
    """
    return _covered(fake, real, k), _covered(real, fake, k)


def _covered(points: Tensor, manifold: Tensor, k: int) -> float:
    # k + 1 because the nearest neighbour of a point of the manifold is itself.
    radii = torch.cat(
        [torch.cdist(some, manifold).kthvalue(k + 1, dim=1).values for some in manifold.split(1000)]
    )
    inside = [(torch.cdist(some, manifold) <= radii).any(dim=1) for some in points.split(1000)]
    return float(torch.cat(inside).double().mean())
