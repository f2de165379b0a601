"""The arguments that `sample` allows, checked in one place, before anything is drawn.

Whole numbers and fractions may be NumPy's or those of a tensor. Standard library only.
"""

import numbers
import operator
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any

from models.bounds import Length, Range, brief, check

MAX_SEED = 2**63 - 1
_MAX_SCALE = 1e6  # a service's limit on guidance is far lower
_Fraction = Annotated[float, Range(0, 1)]


@dataclass(frozen=True)
class Sampling:
    """How images are drawn; see `LatentDiffusion.sample`."""

    steps: int
    guidance_scale: Annotated[float, Range(0, _MAX_SCALE)]
    guidance_interval: Annotated[tuple[_Fraction, ...], Length(2, 2)]
    eta: _Fraction

    @classmethod
    def of(
        cls, *, steps: Any, guidance_scale: Any, guidance_interval: Any, eta: Any, timesteps: int
    ) -> "Sampling":
        """Check all of them, for a model with this many timesteps; raises `ValueError`."""
        interval = guidance_interval
        if isinstance(interval, Iterable) and not isinstance(interval, str):
            interval = tuple(map(_plain, interval))
        asked = cls(_plain(steps), _plain(guidance_scale), interval, _plain(eta))
        check("steps", asked.steps, Annotated[int, Range(1, timesteps)])
        for name in ("guidance_scale", "guidance_interval", "eta"):
            check(name, getattr(asked, name), cls.__annotations__[name])
        start, end = asked.guidance_interval
        if start > end:
            raise ValueError(
                f"guidance_interval is {brief(interval)}; it must begin before it ends"
            )
        return asked

    def guided(self, step: int) -> bool:
        """Whether step 0..steps-1 is within the interval."""
        start, end = self.guidance_interval
        return start <= step / self.steps < end


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
