"""The requests of prompts that are sent. Standard library only."""

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass

STEPS = (8, 12, 20, 30)
GUIDANCE_SCALES = (1.0, 5.0, 7.5)
# Of one evaluation per step, so that all servers compute the same rows; with their spacing.
SAMPLERS = (
    ("ddim", "default"),
    ("euler", "default"),
    ("euler_a", "default"),
    ("dpmpp_2m", "karras"),
    ("unipc", "default"),
)
_SUBJECTS = (
    "a cat", "an old lighthouse", "a bowl of plums", "two dancers", "a steam train",
    "an astronaut", "a fox in the snow", "a street market", "a violin", "a glass whale",
)  # fmt: skip
_PLACES = (
    "on the moon", "by the sea", "in a quiet library", "under a stormy sky", "in a meadow",
    "at night", "in the rain", "on a mountain pass", "in a greenhouse", "at dawn",
)  # fmt: skip
_STYLES = (
    "a photo, 35 mm film", "oil on canvas", "watercolour", "a woodcut", "pencil drawing",
    "studio light, sharp focus", "pastel", "a poster of 1920", "ink wash", "cinematic",
)  # fmt: skip
_NEGATIVES = ("", "blurry, low quality", "text, watermark, extra fingers, bad anatomy")
_SEEDS_PER_STREAM = 2**32


@dataclass(frozen=True)
class Asked:
    """One image to draw from a prompt."""

    prompt: str
    negative_prompt: str
    steps: int
    guidance_scale: float
    sampler: str
    spacing: str
    seed: int

    def body(self, **more: object) -> bytes:
        """The JSON that is sent."""
        return json.dumps(asdict(self) | more).encode()


def workload(stream: int) -> Iterator[Asked]:
    """Endless requests, the same on every run; no two streams share a seed.

    All pairs of steps and guidance scale come in an order drawn by chance, again and again. So a
    window of a few dozen requests has nearly the same rows per image as any other. Prompts,
    negative prompts and samplers are drawn uniformly.
    """
    draw, pairs = random.Random(stream), list(itertools.product(STEPS, GUIDANCE_SCALES))
    for seed in itertools.count(stream * _SEEDS_PER_STREAM, len(pairs)):
        for k, (steps, guidance_scale) in enumerate(draw.sample(pairs, len(pairs))):
            sampler, spacing = draw.choice(SAMPLERS)
            what = f"{draw.choice(_SUBJECTS)} {draw.choice(_PLACES)}, {draw.choice(_STYLES)}"
            negative = draw.choice(_NEGATIVES)
            yield Asked(what, negative, steps, guidance_scale, sampler, spacing, seed + k)
