"""What a backend's buckets cost, and which of them equal the plain loop's blocks, bit for bit.

Kernels may choose their order of summation by the shape of the batch. So rows are compared across
shapes, positions and neighbours, on this very device; a bucket that differs is not used.
"""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Part, Rows, Slots, device_errors
from app.engine.costs import Bucket
from app.engine.job import OutOfMemory
from models.ddim import coefficients
from models.pipeline import BLOCK_ROWS, LatentDiffusion
from models.schedule import alpha_bars

NOT_FINITE = "an image is not finite"
_PROBES = 5  # of each bucket, each in another order of rows


@dataclass(frozen=True)
class Measured:
    """Buckets for steps and for decoding; `exact` is false where not even one can be relied on."""

    buckets: tuple[Bucket, ...]
    decode_buckets: tuple[int, ...]
    exact: bool


def measure(backend: Backend, model: LatentDiffusion, slots: Slots, *, waste: int) -> Measured:
    """Step and decode fixed rows through every bucket.

    `slots` are the runner's, overwritten; `waste` is the one that nobody reads.

    Raises:
        ValueError: a step is not finite.
    """
    backend.prepare()
    expected = _probe(backend, model, slots, waste, BLOCK_ROWS, waste - 1)[0]
    if not expected.isfinite().all():
        raise ValueError(f"{NOT_FINITE}, in {model.dtype}")
    made: dict[int, list[tuple[Tensor, float]]] = {size: [] for size in backend.buckets}
    for shift in range(_PROBES):  # in turn: what disturbs one moment spoils one probe of each
        for size, probes in list(made.items()):
            try:
                with device_errors():
                    count = max(size, BLOCK_ROWS)
                    probes.append(_probe(backend, model, slots, waste, size, count, shift))
            except OutOfMemory:
                if size <= BLOCK_ROWS:
                    raise
                del made[size]
    exact = {
        size: all(torch.equal(rows, expected[: len(rows)]) for rows, _ in probes)
        for size, probes in made.items()
    }
    buckets = tuple(
        Bucket(size, min(seconds for _, seconds in probes))
        for size, probes in made.items()
        if exact[size] or size == BLOCK_ROWS
    )
    decode_buckets = _exact_decode_buckets(backend, slots.x[:BLOCK_ROWS].clone())
    return Measured(
        buckets, decode_buckets or (BLOCK_ROWS,), exact[BLOCK_ROWS] and bool(decode_buckets)
    )


def _probe(
    backend: Backend,
    model: LatentDiffusion,
    slots: Slots,
    waste: int,
    size: int,
    count: int,
    shift: int = 0,
) -> tuple[Tensor, float]:
    """Step `count` fixed rows by `size`, in turned order; what came out, and the least time."""
    draw, total = torch.Generator().manual_seed(0), waste - 1
    rows = torch.randn(total, *model.latent_shape, generator=draw)
    t = torch.randint(0, model.schedule.num_train_timesteps, (total,), generator=draw)
    label = torch.randint(max(len(model.classes.names), 1), (total,), generator=draw)
    now, then = alpha_bars(model.schedule)[:-1], alpha_bars(model.schedule).roll(1)[:-1]
    steps = coefficients(now, then, model.schedule.prediction_type)
    slots.x[:total] = rows.to(slots.x.device)
    least = math.inf
    of = backend.parts(size)
    share = size // of
    for some in torch.arange(count).roll(shift).split(size):
        places = torch.cat([some, torch.full((size - len(some),), waste)])
        known = places.clamp(max=total - 1)
        parts = [
            Rows(
                read=places[rows],
                write=places[rows],
                t=t[known][rows],
                label=label[known][rows],
                null=torch.arange(share),
                scale=torch.ones(share),
                steps=steps[t[known][rows]],
                noise=None,
            )
            for rows in torch.arange(size).split(share)
        ]
        began = time.perf_counter()
        for index, tick in enumerate(parts):
            backend.step(slots, tick, Part(index, of))
        backend.synchronize()
        least = min(least, time.perf_counter() - began)
    return slots.x[:count].clone().cpu(), least


def _exact_decode_buckets(backend: Backend, latents: Tensor) -> tuple[int, ...]:
    """The sizes at which decoded images equal those of a block of the plain loop."""

    def sums(size: int, shift: int) -> Tensor:
        parts = latents.roll(shift, dims=0).split(size)
        made = [backend.decode(part).images()[1].clone() for part in parts]
        return torch.cat(made).roll(-shift)

    expected = sums(backend.decode_buckets[-1], 0)
    return tuple(
        size
        for size in backend.decode_buckets
        if all(torch.equal(sums(size, shift), expected) for shift in range(2))
    )
