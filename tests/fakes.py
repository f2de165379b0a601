"""A runner without a network, for tests of policy and of the loop."""

import threading
from collections.abc import Sequence

from app.engine.job import ModelInfo, Params, Pixels
from app.engine.scheduler import Slot

INFO = ModelInfo("fake", ("a", "b"), 2, 1, 1, 1000, 1.0, "0" * 10)


class FakeRunner:
    """Counts what it is asked; each image is one pixel, its seed modulo 256.

    `gate` holds every step while it is clear; a seed in `poison` makes a step raise, one in
    `blank` makes an image that is not finite.
    """

    def __init__(
        self, info: ModelInfo = INFO, *, poison: int | None = None, blank: int | None = None
    ) -> None:
        self.info = info
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[int]] = []  # the seeds that rode each step
        self.held: set[int] = set()
        self._poison, self._blank = poison, blank

    def start(self, slot: Slot) -> None:
        assert slot.index not in self.held
        self.held.add(slot.index)

    def step(self, slots: Sequence[Slot]) -> None:
        assert self.gate.wait(10)
        seeds = [slot.job.params.seed_of(slot.image) for slot in slots]
        self.batches.append(seeds)
        assert {slot.index for slot in slots} == self.held
        if self._poison in seeds:
            raise RuntimeError("out of memory")

    def finish(self, slots: Sequence[Slot]) -> list[Pixels | None]:
        made: list[Pixels | None] = []
        for slot in slots:
            self.held.remove(slot.index)
            seed = slot.job.params.seed_of(slot.image)
            pixels = Pixels(1, 1, 1, bytes([seed % 256]))
            made.append(None if seed == self._blank else pixels)
        return made

    def drop(self, slots: Sequence[Slot]) -> None:
        self.held -= {slot.index for slot in slots}


def params(seed: int = 0, *, steps: int = 3, n: int = 1, model: str = "fake") -> Params:
    return Params(model, 0, steps, 1.0, 0.0, seed, n)
