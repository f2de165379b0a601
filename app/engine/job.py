"""What a request is to the engine, and how it can end. Plain and frozen: it crosses processes."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType

from app.engine.costs import Costs

# The most that one request may ask for; a model's number of timesteps bounds its steps, too.
MAX_STEPS, MAX_IMAGES, MAX_SEED = 1000, 16, 2**63 - 1
MAX_GUIDANCE_SCALE = 30  # where AUTOMATIC1111's slider ends
MIN_PRIORITY, MAX_PRIORITY, MAX_TIMEOUT = -10, 10, 3600.0
MAX_PREVIEWS = 16
DEFAULT_STEPS = 50
LONG = 100  # steps; a request with more gives way to shorter ones


@dataclass(frozen=True)
class Asker:
    """Who asks: shares of the engine go by `client`; the log names `request_id`."""

    client: str = ""
    request_id: str = ""


NOBODY = Asker()


class EngineError(Exception):
    """The engine did not make the images.

    EngineError
    +-- EngineBusy          no room, or not in time; try again after `retry_after` seconds
    +-- DeadlineTooShort    cannot be met even if the request runs alone
    +-- DeadlineExceeded    accepted, and not done in time
    +-- EngineUnavailable   not loaded, or stopped; `retry_after` seconds, if known
    +-- GenerationFailed    accepted, and failed while it was computed
    """


class EngineBusy(EngineError):
    """The queue has no room, or is too long for the deadline."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class DeadlineTooShort(EngineError):
    """The request takes longer than its deadline, even alone."""


class DeadlineExceeded(EngineError):
    """The request was not done in time; its slots are free."""


class EngineUnavailable(EngineError):
    """No worker takes requests now; one may after `retry_after` seconds, if known."""

    def __init__(self, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class GenerationFailed(EngineError):
    """An accepted request failed."""


class OutOfMemory(Exception):
    """The device has no memory for this many rows; it can go on with fewer."""


class DeviceLost(Exception):
    """The device has stopped answering in this process, which has to end."""


@dataclass(frozen=True)
class Params:
    """A valid request: every bound was checked before one of these was made.

    Image k of the request uses seed + k, modulo 2^63. A guidance scale of 1 is none.
    """

    model: str
    class_index: int | None
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    eta: float
    seed: int
    n: int

    def canonical(self, info: "ModelInfo") -> "Params":
        """The one form of all requests for these pixels: no guidance if no step is guided.

        An interval becomes the narrowest that covers the same steps, and ends where a step begins.
        """
        begin, end = self._guided
        scale, interval = 1.0, (0.0, 1.0)
        if self.class_index is not None and info.null_class is not None and begin < end:
            scale, interval = self.guidance_scale, (begin / self.steps, end / self.steps)
        if (scale, interval) == (self.guidance_scale, self.guidance_interval):
            return self
        return replace(self, guidance_scale=scale, guidance_interval=interval)

    def seed_of(self, image: int) -> int:
        """The seed of image 0..n-1."""
        return (self.seed + image) % (MAX_SEED + 1)

    def rows(self, step: int) -> int:
        """UNet evaluations of one image at step 0..steps-1: two if it is guided."""
        start, end = self.guidance_interval
        return 2 if self.guidance_scale != 1 and start <= step / self.steps < end else 1

    @property
    def work(self) -> int:
        """UNet evaluations of the whole request."""
        begin, end = self._guided
        return self.n * (self.steps + max(end - begin, 0))

    @property
    def _guided(self) -> tuple[int, int]:
        """The steps begin..end-1 are guided, by the comparisons that `rows` makes."""
        if self.guidance_scale == 1:
            return 0, 0
        begin, end = (
            bisect_left(range(self.steps), edge, key=lambda step: step / self.steps)
            for edge in self.guidance_interval
        )
        return begin, end


@dataclass(frozen=True)
class ModelInfo:
    """What the server knows about a loaded model."""

    name: str
    classes: tuple[str, ...]
    null_class: int | None
    width: int
    height: int
    max_steps: int
    guidance_scale: float
    digest: str  # SHA-256 of the checkpoint, hexadecimal
    backend: str
    device: str  # its kind: cpu, or a GPU's name
    dtype: str  # or tf32: float32, of which products have ten bits of mantissa
    exact: bool  # pixels do not depend on what shares the batch, as measured at warm-up
    costs: Costs
    platform: str = ""  # processors, libraries and rounding: what pixels' last bits depend on
    blocks: tuple[int, int] = (16, 16)  # rows of UNet and decoder whose last bits all ticks have
    slots: int = 64  # images of one client in flight, where the settings do not say

    @property
    def hash(self) -> str:
        """The digest as image tools write it: its first ten digits."""
        return self.digest[:10]

    @property
    def indices(self) -> range:
        """The classes' indices."""
        return range(len(self.classes))

    @property
    def class_optional(self) -> bool:
        """Whether an image may be asked for without a class."""
        return not self.classes or self.null_class is not None


class Models(dict[str, ModelInfo]):
    """The loaded models by name, the default first; `failed` says why others did not load.

    Looking up a model that failed raises `EngineUnavailable`, and an unknown one KeyError.
    """

    def __init__(
        self, loaded: Iterable[ModelInfo] = (), failed: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__((info.name, info) for info in loaded)
        self.failed = failed

    def __missing__(self, name: str) -> ModelInfo:
        if name in self.failed:
            raise EngineUnavailable(f"model {name!r} does not load: {self.failed[name]}")
        raise KeyError(name)


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


@dataclass(frozen=True)
class Queued:
    """A request waits: `position` others come first; about `wait` seconds to its first step."""

    position: int
    wait: float


@dataclass(frozen=True)
class Moved:
    """Its images have made `step` of `steps` steps, all together; about `left` seconds to go."""

    step: int
    steps: int
    left: float


@dataclass(frozen=True)
class Preview:
    """A small picture of what image `image` will be, after its step `step` of `steps`."""

    image: int
    step: int
    steps: int
    pixels: Pixels


Update = Queued | Moved | Preview


def preview_steps(steps: int, previews: int) -> frozenset[int]:
    """The steps in 1..steps-1 after which an image is shown: at most `previews`, evenly spaced."""
    wanted = (round(steps * k / (previews + 1)) for k in range(1, previews + 1))
    return frozenset(step for step in wanted if 0 < step < steps)


class Status(Enum):
    """QUEUED -> RUNNING -> DONE | FAILED | CANCELLED. Only the scheduler changes it."""

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
    priority: int = 0
    previews: frozenset[int] = frozenset()  # the steps after which its images are shown
    asker: Asker = NOBODY
    status: Status = Status.QUEUED
    begun: int = 0  # images that have had a slot
    images: dict[int, Pixels] = field(default_factory=dict)
    denoised: float = 0.0  # when the last step of its last image began; time.perf_counter()

    @property
    def ended(self) -> bool:
        """Whether the job has reached its last state."""
        return self.status in (Status.DONE, Status.FAILED, Status.CANCELLED)

    @property
    def long(self) -> bool:
        """Whether it gives way to short ones."""
        return self.params.steps > LONG


@dataclass(eq=False)
class Image:
    """One image of a job: how many steps it has made, and the slot and tick of the last."""

    job: Job
    index: int
    key: tuple[int, int, int]  # orders those in flight: (virtual arrival, job, image)
    step: int = 0
    slot: int = -1
    ridden: int = -1

    @property
    def rows(self) -> int:
        """UNet evaluations of its next step."""
        return self.job.params.rows(self.step)

    @property
    def long(self) -> bool:
        """Whether it gives way to short ones."""
        return self.job.long
