"""A worker whose device takes no time: the loop of the engine, over pictures that are there.

`free_server.py` starts it; whatever `app` is on the path is what runs.
"""

import math
from collections.abc import Sequence

from app.engine.costs import Bucket, Costs
from app.engine.job import Image, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.model_runner import ModelRunner
from app.engine.results import Pixels
from app.engine.worker import main
from models.conditioning import Classes
from models.sizes import Sizes

_SIZE, _PICTURES = 32, 64  # as those of the digits; pixels, pictures
_TICK = 1e-4  # seconds of a row; so little that no deadline is in danger
_INFO = ModelInfo(
    name="free",
    classes=Classes(tuple("0123456789"), 10),
    sizes=Sizes(_SIZE, _SIZE),
    max_steps=1000,
    guidance_scale=3.0,
    digest="0" * 64,
    backend="none",
    device="none",
    dtype="float32",
    exact=True,
    costs=Costs(tuple(Bucket(rows, _TICK * (2 + rows / 2)) for rows in (1, 2, 4, 8, 16, 32, 64))),
)


class FreeRunner:
    """The interface of `app.engine.runner.Runner`, with nothing behind it."""

    def __init__(self) -> None:
        self.info, self.begun = _INFO, 0.0
        self._pictures = [_ring(k) for k in range(_PICTURES)]
        self._finished: list[Image] = []
        self._wanted: list[tuple[Image, int]] = []

    def at(self, width: int, height: int) -> "FreeRunner":
        raise ValueError(f"{width}x{height} is not a size of its pictures")

    def warm_up(self, *, turn: object = None) -> None:
        pass

    def expect(self, params: SamplingParams) -> None:
        pass

    def start(self, image: Image) -> None:
        pass

    def step(self, images: Sequence[Image], rows: int) -> None:
        pass

    def settle(self) -> None:
        pass

    def preview(self, images: Sequence[Image]) -> None:
        self._wanted += [(image, image.evaluation) for image in images]

    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:  # noqa: ARG002
        wanted, self._wanted = self._wanted, []
        return [(image, step, self._picture(image)) for image, step in wanted]

    def decode(self, images: Sequence[Image]) -> None:
        self._finished += images

    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:  # noqa: ARG002
        finished, self._finished = self._finished, []
        return [(image, self._picture(image)) for image in finished]

    def _picture(self, image: Image) -> Pixels:
        return self._pictures[image.job.params.seed_of(image.index) % _PICTURES]


def _ring(number: int) -> Pixels:
    """A soft ring, somewhere: about as hard to compress as a drawn digit."""
    column, row = 12 + number % 8, 12 + number // 8
    distances = (math.hypot(x - column, y - row) for y in range(_SIZE) for x in range(_SIZE))
    data = bytes(round(255 * math.exp(-((distance - 8) ** 2) / 4)) for distance in distances)
    return Pixels(_SIZE, _SIZE, 1, data)


if __name__ == "__main__":
    runners: list[ModelRunner] = [FreeRunner()]
    main(lambda _: runners)
