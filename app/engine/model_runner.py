"""What a lane drives: the interface of `runner.Runner`, without tensors."""

from collections.abc import Sequence
from typing import Protocol, Self

from app.engine.job import Image, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.results import Pixels
from app.engine.turnstile import Turn


class ModelRunner(Protocol):
    """The runner's interface: the tensors of one model at one size, by slot."""

    info: ModelInfo
    begun: float  # when the step begun last did; time.perf_counter()

    def at(self, width: int, height: int) -> Self:
        """A runner of another image size, not warm; raises as `warm_up`."""

    def warm_up(self, *, turn: Turn) -> None:
        """Measure and check the device, with a turn on it for each run.

        Raises `OutOfMemory`, or `ValueError` with the reason.
        """

    def expect(self, params: SamplingParams) -> None:
        """Begin what these images need before they start, if it can go on beside ticks."""

    def start(self, image: Image) -> None:
        """Put an image's initial noise into its slot, and what the network reads."""

    def step(self, images: Sequence[Image], rows: int) -> None:
        """Begin a step of these images, all or none, in a bucket of `rows`.

        The step may still be running when this returns; raises `OutOfMemory`.
        """

    def settle(self) -> None:
        """Wait until the device has made the step begun last; decoding may go on."""

    def preview(self, images: Sequence[Image]) -> None:
        """Keep the x0 of these images at the step begun last, for previews."""

    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        """Previews, each with the evaluation it is of; with `wait`, all that were kept."""

    def decode(self, images: Sequence[Image]) -> None:
        """Begin to decode images that have made their last step; their slots are free after."""

    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        """Newly decoded images, or why one failed; with `wait`, block if any were begun."""
