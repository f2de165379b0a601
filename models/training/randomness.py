"""Random numbers as a function of (seed, step): a resumed run draws what it would have drawn.

Nothing here keeps state, so there is none to save, and every process of a distributed run can draw
the numbers of the whole batch and take its share.
"""

import functools

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, purpose: str, index: int) -> torch.Generator:
    """A CPU generator of its own for one purpose at one step (or epoch)."""
    return torch.Generator("cpu").manual_seed(mix(seed, purpose, index))


def mix(seed: int, purpose: str, index: int) -> int:
    """A seed in [0, 2^63), well spread whatever the inputs."""
    entropy = [seed, index, *purpose.encode()]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


def batch_indices(seed: int, step: int, batch: int, size: int) -> Tensor:
    """Which of `size` images step `step` reads: every epoch a new order, its remainder dropped."""
    epoch, position = divmod(step, max(size // batch, 1))
    return _order(seed, epoch, size)[position * batch : (position + 1) * batch]


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, size: int) -> Tensor:
    return torch.randperm(size, generator=generator(seed, "order", epoch))
