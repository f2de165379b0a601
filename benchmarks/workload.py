"""The requests that are sent. Standard library only."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

STEPS = (10, 20, 30, 50)
GUIDANCE_SCALES = (1.0, 3.0)
_SEEDS_A_STREAM = 2**32


@dataclass(frozen=True)
class Request:
    """One image to draw."""

    label: int
    steps: int
    guidance_scale: float
    seed: int

    def body(self, **more: object) -> bytes:
        """The JSON that is sent."""
        return json.dumps(
            {
                "class": str(self.label),
                "steps": self.steps,
                "guidance_scale": self.guidance_scale,
                "seed": self.seed,
                **more,
            }
        ).encode()


def workload(
    stream: int,
    steps: Sequence[int] = STEPS,
    guidance_scales: Sequence[float] = GUIDANCE_SCALES,
) -> Iterator[Request]:
    """Endless requests, the same on every run; no two streams share a seed.

    Classes, steps and guidance scales are each drawn uniformly.
    """
    draw = random.Random(stream)
    seed = stream * _SEEDS_A_STREAM
    while True:
        yield Request(draw.randrange(10), draw.choice(steps), draw.choice(guidance_scales), seed)
        seed += 1


def rows(steps: int, guidance_scale: float) -> int:
    """Rows of an image: guidance takes two per step, with and without the class."""
    return steps * (1 if guidance_scale == 1 else 2)
