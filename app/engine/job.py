"""What a request is to the engine, and what the two sides of the engine say to each other.

Everything here is plain, frozen and picklable: it crosses to wherever the worker lives.
"""

from dataclasses import dataclass, field
from enum import Enum

# What one request may ask for at most; a model's own number of timesteps bounds its steps, too.
MAX_STEPS, MAX_IMAGES, MAX_GUIDANCE_SCALE, MAX_SEED = 1000, 16, 20, 2**63 - 1
DEFAULT_STEPS = 50


class EngineError(Exception):
    """The engine did not make the images.

    EngineError
    +-- EngineBusy          the queue is full; `retry_after` seconds
    +-- EngineUnavailable   not loaded, or stopped
    +-- LoadFailed          a model does not open
    +-- GenerationFailed    accepted, and failed on the way
    """


class EngineBusy(EngineError):
    """The queue has no room."""

    def __init__(self, queued: int, limit: int, retry_after: int) -> None:
        super().__init__(f"{queued} images are waiting or running; the limit is {limit}")
        self.retry_after = retry_after


class EngineUnavailable(EngineError):
    """No worker takes requests now."""


class LoadFailed(EngineError):
    """A model does not open; the message names the file and the key."""


class GenerationFailed(EngineError):
    """An accepted request failed."""


@dataclass(frozen=True)
class Params:
    """A valid request: every bound was checked before one of these was made.

    Image k of the request uses seed + k, modulo 2^63.
    """

    model: str
    class_index: int | None
    steps: int
    guidance_scale: float
    eta: float
    seed: int
    n: int

    def seed_of(self, image: int) -> int:
        """The seed of image 0..n-1."""
        return (self.seed + image) % (MAX_SEED + 1)


@dataclass(frozen=True)
class ModelInfo:
    """What the server may know of a loaded model."""

    name: str
    classes: tuple[str, ...]
    null_class: int | None
    width: int
    height: int
    max_steps: int
    guidance_scale: float
    digest: str  # first 10 hexadecimal digits of the SHA-256 of the UNet's weights


@dataclass(frozen=True)
class Pixels:
    """One image: rows of uint8, channels last."""

    width: int
    height: int
    channels: int
    data: bytes


class Status(Enum):
    """QUEUED -> RUNNING -> DONE | FAILED | CANCELLED. The scheduler is the one writer."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Job:
    """A request inside the worker; images finish on their own and leave together."""

    id: int
    params: Params
    status: Status = Status.QUEUED
    images: dict[int, Pixels] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the job will change no more."""
        return self.status in (Status.DONE, Status.FAILED, Status.CANCELLED)


# To the worker.


@dataclass(frozen=True)
class Submit:
    """Take this request; one `Done`, `Failed` or nothing after `Cancel` will answer it."""

    job_id: int
    params: Params


@dataclass(frozen=True)
class Cancel:
    """Forget this request, wherever it is; unknown ids are ignored."""

    job_id: int


@dataclass(frozen=True)
class Stop:
    """Finish the current tick and end."""


# From the worker.


@dataclass(frozen=True)
class Ready:
    """Every model is loaded."""

    models: tuple[ModelInfo, ...]


@dataclass(frozen=True)
class Refused:
    """A model does not load; the worker ended."""

    reason: str


@dataclass(frozen=True)
class Done:
    """A request's images, in order."""

    job_id: int
    images: tuple[Pixels, ...]


@dataclass(frozen=True)
class Failed:
    """A request that will have no images."""

    job_id: int
    reason: str


@dataclass(frozen=True)
class Stopped:
    """The worker ended; nothing it held will be answered."""


Command = Submit | Cancel | Stop
Event = Ready | Refused | Done | Failed | Stopped
