"""The image sizes that a model may be asked for. Standard library only."""

from dataclasses import dataclass

MAX_SIDE = 2048  # pixels of an image


@dataclass(frozen=True)
class Sizes:
    """Sides of images in pixels: those of the model's own size, and others if it allows any.

    Others are multiples of `step` from `least` to `most`; none if `most` is 0. Such an image has at
    most `pixels` pixels in all.
    """

    width: int
    height: int
    step: int = 1
    least: int = 0
    most: int = 0
    pixels: int = MAX_SIDE**2

    @property
    def fixed(self) -> bool:
        """Whether only the model's own size is allowed."""
        return not self.most

    def check(self, width: int, height: int) -> None:
        """Raise `ValueError` unless an image may be of this size; the message says what may be."""
        if (width, height) == (self.width, self.height):
            return
        sides = range(self.least, self.most + 1, self.step) if self.most else ()
        if width not in sides or height not in sides or width * height > self.pixels:
            raise ValueError(f"{width}x{height} is not a size of this model; allowed: {self}")

    def __str__(self) -> str:
        own = f"{self.width}x{self.height}"
        if self.fixed:
            return own
        area = f", {self.pixels} pixels in all at most" if self.pixels < self.most**2 else ""
        return f"{own}, or sides of {self.least} to {self.most} in steps of {self.step}{area}"
