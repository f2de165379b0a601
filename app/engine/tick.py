"""The images in flight, each with its trajectory and its noise, and a tick of them as tensors."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from app.engine.backends.base import Backend, Rows, Slots
from app.engine.job import Image, SamplingParams
from models.denoiser import Denoiser
from models.pipeline import LatentDiffusion
from models.samplers import COEFFICIENTS, HISTORY, trajectory
from models.sampling import Spacing
from models.schedulers import SchedulerConfig

_NOTHING = [0.0] * COEFFICIENTS  # what padding becomes
_COND, _UNCOND = Denoiser.CONDITIONAL, Denoiser.UNCONDITIONAL


@dataclass(frozen=True)
class Way:
    """A trajectory in Python's numbers, by evaluation: ticks are made of single rows of it."""

    timesteps: list[float]
    coefficients: list[list[float]]
    kept: list[int]
    draws: list[bool]
    remembers: bool
    noise: float  # what the first N(0, I) is multiplied by


def _way(
    scheduler: SchedulerConfig, sampler: str, spacing: str, steps: int, eta: float, start: int
) -> Way:
    placed = cast("Spacing", spacing)  # checked where the request came in
    made = trajectory(scheduler, sampler, steps, spacing=placed, eta=eta, start=start)
    return Way(
        made.timesteps.tolist(),
        made.coefficients.tolist(),
        made.kept.tolist(),
        made.draws,
        made.remembers,
        made.noise,
    )


class Flight:
    """What the images in flight have beside their slots: trajectories and generators, by slot."""

    def __init__(self, model: LatentDiffusion, backend: Backend) -> None:
        self._model, self._shape, self._times = model, backend.shape, backend.times
        self._way = functools.lru_cache(64)(functools.partial(_way, model.schedule))
        self._ways: dict[int, Way] = {}
        self._generators: dict[int, torch.Generator] = {}

    def begin(self, image: Image) -> Tensor:
        """An image's first latent, (C, h, w) float32 on the CPU."""
        params = image.job.params
        noise, generator = self._model.start(params.seed_of(image.index), self._shape)
        way = self._way_of(params)
        self._ways[image.slot], self._generators[image.slot] = way, generator
        return way.noise * noise

    def _way_of(self, params: SamplingParams) -> Way:
        return self._way(params.sampler, params.spacing, params.steps, params.eta, params.start)

    @contextlib.contextmanager
    def undone_on_error(self, images: Sequence[Image]) -> Iterator[None]:
        """If it raises, generators are as before: what is tried again has the same noise."""
        drawn = [self._generators[image.slot] for image in images if self._draws(image)]
        states = [generator.get_state() for generator in drawn]
        try:
            yield
        except Exception:
            for generator, state in zip(drawn, states, strict=True):
                generator.set_state(state)
            raise

    def rows(self, images: Sequence[Image], size: int, slots: Slots) -> Rows:
        """The next evaluation of these images, in a tick of `size` rows, on the CPU.

        Padding reads the slot before the waste, where nobody writes.
        """
        guided = [i for i, image in enumerate(images) if image.rows == 2]
        count, padding = len(images), size - len(images) - len(guided)
        order = [*range(count), *guided]
        places = [image.slot for image in images]
        ways = [(self._ways[image.slot], image.evaluation) for image in images]
        null, scale = list(range(size)), [1.0] * size
        for k, i in enumerate(guided):
            null[i] = count + k
            scale[i] = images[i].job.params.guidance_scale
        times = [way.timesteps[at] for way, at in ways]
        taken = [way.coefficients[at] for way, at in ways]
        blank, waste, rest = slots.waste - 1, slots.waste, size - count
        return Rows(
            read=_whole([*(places[i] for i in order), *[blank] * padding]),
            write=_whole([*places, *[waste] * rest]),
            side=_whole(
                [
                    *(2 * place + _COND for place in places),
                    *(2 * places[i] + _UNCOND for i in guided),
                    *[2 * blank] * padding,
                ]
            ),
            t=self._times([*(times[i] for i in order), *[0.0] * padding]),
            null=_whole(null),
            scale=_real(scale),
            coefficients=_real([*taken, *[_NOTHING] * rest]),
            kept=self._kept(images, size, waste),
            noise=self._noise(images, size),
            shown=any(image.evaluation + 1 in image.job.previews for image in images),
        )

    def _kept(self, images: Sequence[Image], size: int, waste: int) -> Tensor | None:
        """Where each row's y goes in all rings; None if no image remembers any."""
        if not any(self._ways[image.slot].remembers for image in images):
            return None
        kept = [waste * HISTORY] * size
        for i, image in enumerate(images):
            place = self._ways[image.slot].kept[image.evaluation]
            if place < HISTORY:
                kept[i] = image.slot * HISTORY + place
        return _whole(kept)

    def _noise(self, images: Sequence[Image], size: int) -> Tensor | None:
        """What each row's step adds; None if no step adds any."""
        drawing = [(i, image) for i, image in enumerate(images) if self._draws(image)]
        if not drawing:
            return None
        noise = torch.zeros(size, *self._shape)
        for i, image in drawing:
            noise[i].normal_(generator=self._generators[image.slot])
        return noise

    def _draws(self, image: Image) -> bool:
        """Whether an image's next step adds noise."""
        return self._ways[image.slot].draws[image.evaluation]


# By way of NumPy, which reads a list five times as fast as PyTorch.


def _whole(values: Sequence[int]) -> Tensor:
    """As int64."""
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _real(values: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    """As float32."""
    return torch.from_numpy(np.array(values, dtype=np.float32))
