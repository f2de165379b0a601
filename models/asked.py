"""The arguments that `sample` allows, checked in one place, before anything is drawn.

Whole numbers and fractions may be NumPy's or those of a tensor.
"""

import numbers
import operator
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from models.bounds import Length, Range, brief, check
from models.sampling import SAMPLERS, Spacing
from models.schedulers import SchedulerConfig
from models.sizes import MAX_SIDE

MAX_SEED = 2**63 - 1
DEFAULT_STEPS = 50
_MAX_LAYERS = 64  # of a text encoder
_Side = Annotated[int, Range(1, MAX_SIDE)]
_MAX_SCALE = 1e6  # a service's limit on guidance is far lower
_Fraction = Annotated[float, Range(0, 1)]


class Options(TypedDict, total=False):
    """How images are drawn; each may be left out. See `LatentDiffusion.sample`."""

    steps: int
    sampler: str | None
    spacing: str | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float]
    eta: float
    start: int
    negative_prompt: str
    clip_skip: int
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Sampling:
    """How images are drawn, checked and complete."""

    steps: int
    sampler: str
    spacing: Spacing
    guidance_scale: Annotated[float, Range(0, _MAX_SCALE)]
    guidance_interval: Annotated[tuple[_Fraction, ...], Length(2, 2)]
    eta: float
    start: int
    negative_prompt: str
    clip_skip: Annotated[int, Range(0, _MAX_LAYERS)]
    width: _Side | None
    height: _Side | None

    @classmethod
    def of(
        cls,
        scheduler: SchedulerConfig,
        own_scale: float,
        *,
        steps: Any = DEFAULT_STEPS,
        sampler: Any = None,
        spacing: Any = None,
        guidance_scale: Any = None,
        guidance_interval: Any = (0.0, 1.0),
        eta: Any = 0.0,
        start: Any = 0,
        negative_prompt: Any = "",
        clip_skip: Any = 0,
        width: Any = None,
        height: Any = None,
    ) -> "Sampling":
        """Check `Options` for a model with this scheduler and guidance; raises `ValueError`."""
        interval = guidance_interval
        if isinstance(interval, Iterable) and not isinstance(interval, str):
            interval = tuple(map(_plain, interval))
        name = scheduler.sampler if sampler is None else sampler
        if spacing is None and name in SAMPLERS:
            spacing = SAMPLERS[name].spacing(scheduler.spacing)
        scale = own_scale if guidance_scale is None else _plain(guidance_scale)
        asked = cls(
            _plain(steps),
            name,
            spacing,
            scale,
            interval,
            _plain(eta),
            _plain(start),
            negative_prompt,
            _plain(clip_skip),
            _plain(width),
            _plain(height),
        )
        scheduler.check(asked.sampler, asked.steps, asked.spacing, asked.eta, asked.start)
        for key in ("guidance_scale", "guidance_interval", "clip_skip", "width", "height"):
            check(key, getattr(asked, key), cls.__annotations__[key])
        if not isinstance(negative_prompt, str):
            raise ValueError(f"negative_prompt is {brief(negative_prompt)}; allowed: a text")
        first, last = asked.guidance_interval
        if first > last:
            raise ValueError(
                f"guidance_interval is {brief(interval)}; it must begin before it ends"
            )
        return asked

    @property
    def evaluations(self) -> int:
        """How often the network is evaluated for one image, guidance aside."""
        return SAMPLERS[self.sampler].evaluations(self.steps, self.start)

    def guided(self, evaluation: int) -> bool:
        """Whether one of the evaluations, counted from 0, is within the interval."""
        first, last = self.guidance_interval
        return first <= evaluation / self.evaluations < last


def read_labels(labels: Any) -> list[str | int | None]:
    """One class or None per image; raises `ValueError` for anything but a list of these."""
    read = []
    for label in _listed("labels", labels):
        plain = _plain(label)
        if not (plain is None or isinstance(plain, str) or type(plain) is int):
            raise ValueError(f"a label is {brief(label)}; allowed: a class, its index, or None")
        read.append(plain)
    if not read:
        raise ValueError("labels is empty; allowed: one label per image, and at least one image")
    return read


def read_seeds(seeds: Any, images: int) -> list[int]:
    """One seed per image, random if `seeds` is None; raises `ValueError`."""
    if seeds is None:
        return [secrets.randbelow(2**32) for _ in range(images)]
    read = [_plain(seed) for seed in _listed("seeds", seeds)]
    if len(read) != images:
        raise ValueError(f"{images} labels and {len(read)} seeds; allowed: one seed per label")
    for seed in read:
        if type(seed) is not int or not 0 <= seed <= MAX_SEED:
            raise ValueError(f"a seed is {brief(seed)}; allowed: a whole number, 0 to {MAX_SEED}")
    return read


def _listed(name: str, values: Any) -> Iterable[Any]:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise ValueError(f"{name} is {brief(values)}; allowed: a list, one entry per image")
    return values


def _plain(value: Any) -> Any:
    """A number as Python's own int or float; a bool, or anything else, unchanged."""
    if isinstance(value, bool):
        return value
    try:
        return operator.index(value)
    except TypeError:
        return float(value) if isinstance(value, numbers.Real) else value
