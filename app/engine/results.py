"""What comes of a request: on the way, and at its end. Plain and frozen: it crosses processes."""

from dataclasses import dataclass

from models.conditioning import NOTHING_CUT, Cut


@dataclass(frozen=True)
class Pixels:
    """One image: rows of uint8, channels last."""

    width: int
    height: int
    channels: int
    data: bytes


@dataclass(frozen=True)
class Result:
    """The images of a request, in order, and where the seconds went."""

    images: tuple[Pixels, ...]
    queue: float  # until its first step
    denoise: float  # until the last step of its last image
    decode: float  # until its images were there
    cut: Cut = NOTHING_CUT  # of its prompts


@dataclass(frozen=True)
class Queued:
    """A request waits: `position` others come first; about `wait` seconds to its first step."""

    position: int
    wait: float


@dataclass(frozen=True)
class Moved:
    """Its images have had `step` of `steps` evaluations, together; about `left` seconds to go."""

    step: int
    steps: int
    left: float


@dataclass(frozen=True)
class Preview:
    """A small picture of what image `image` will be, after evaluation `step` of `steps`."""

    image: int
    step: int
    steps: int
    pixels: Pixels


Update = Queued | Moved | Preview
