"""The map for previews, fitted to a few images that are drawn for it when a model is loaded."""

import time
from contextlib import nullcontext

import torch

from app.engine.backends.base import Backend, Slots
from app.engine.backends.measure import Clock, Measured, decode, run
from app.engine.costs import Costs
from app.engine.turnstile import Turn
from models.memory import BLOCK_ROWS
from models.pipeline import LatentDiffusion
from models.preview import LatentPreview
from models.samplers import Trajectory, trajectory

_STEPS = 8
_SECONDS = 10.0  # that the images may take


def fit_preview(
    backend: Backend,
    model: LatentDiffusion,
    slots: Slots,
    measured: Measured,
    *,
    clock: Clock = time.perf_counter,
    turn: Turn = nullcontext,
) -> LatentPreview:
    """Draw sixteen images in eight steps, or fewer where rows are dear, and fit the map to them.

    They are drawn with the buckets that were measured: there is memory for these. `slots` are as
    for `measure`. Classes have their turn.
    """
    count, steps = within(measured, min(BLOCK_ROWS, slots.waste - 1), model)
    way, size = _way(model, steps), Costs(measured.buckets).holding(count).rows
    places = torch.arange(count)
    begun = torch.stack([model.start(seed, backend.shape)[0] for seed in range(count)])
    device = slots.x.device
    examples = model.denoiser.examples(count, model.size_of(backend.shape))
    slots.fill(places.to(device), way.noise * begun.to(device), examples)
    for t, coefficients in zip(way.timesteps, way.coefficients.float(), strict=True):
        for some in places.split(size):
            rows = len(some)
            times = t.float().expand(rows)
            run(backend, slots, size, some, times, coefficients.expand(rows, -1), clock, turn)
    latents = slots.x[:count].clone()
    with turn():
        pixels, _ = decode(backend, latents, measured.decode_buckets[-1])
    return LatentPreview.fit(latents, pixels.movedim(-1, 1) / 127.5 - 1)


def within(measured: Measured, most: int, model: LatentDiffusion) -> tuple[int, int]:
    """How many images, and in how many steps: as many as are usual, or as time allows."""
    costs, decoded = Costs(measured.buckets), measured.decode_buckets[-1]
    count, steps = most, min(_STEPS, model.schedule.num_train_timesteps)

    def seconds() -> float:
        bucket = costs.holding(count)
        drawn = -(-count // bucket.rows) * bucket.seconds * steps
        return drawn + -(-count // decoded) * measured.decode_seconds

    while seconds() > _SECONDS and (count > 1 or steps > 1):
        if steps > _STEPS // 2 or count == 1:
            steps = max(steps // 2, 1)
        else:
            count //= 2
    return count, steps


def _way(model: LatentDiffusion, steps: int) -> Trajectory:
    """Of a sampler without a memory, as `run` has none."""
    name = "ddim" if "ddim" in model.schedule.samplers else "euler"
    return trajectory(model.schedule, name, steps)
