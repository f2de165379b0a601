"""What a request is to the engine. Plain and frozen: it crosses processes."""

import functools
from bisect import bisect_left
from collections.abc import Set
from dataclasses import dataclass, field, replace
from enum import Enum

from app.engine.model_info import LaneId, ModelInfo
from app.engine.results import Pixels
from models.conditioning import NOTHING_CUT, Condition, Cut
from models.sampling import DEFAULT_SAMPLER, DEFAULT_SPACING, SAMPLERS

# The most that one request may ask for; a model's number of timesteps bounds its steps, too.
MAX_STEPS, MAX_IMAGES, MAX_SEED = 1000, 16, 2**63 - 1
MAX_GUIDANCE_SCALE = 30  # where AUTOMATIC1111's slider ends
MIN_PRIORITY, MAX_PRIORITY, MAX_TIMEOUT = -10, 10, 3600.0
MAX_PREVIEWS = 16
DEFAULT_STEPS = 50


@dataclass(frozen=True)
class Asker:
    """Who asks: shares of the engine go by `client`; the log names `request_id`."""

    client: str = ""
    request_id: str = ""


NOBODY = Asker()


@dataclass(frozen=True)
class SamplingParams:
    """What fixes an image's pixels; every bound was checked before one of these was made.

    Image k of the request uses seed + k, modulo 2^63. A guidance scale of 1 is none. The first
    `start` of the steps are left out.
    """

    model: str
    condition: Condition
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    eta: float
    seed: int
    n: int
    width: int
    height: int
    sampler: str = DEFAULT_SAMPLER
    spacing: str = DEFAULT_SPACING
    start: int = 0

    def canonical(self, info: ModelInfo) -> "SamplingParams":
        """The one form of all requests for these pixels: no guidance if nothing is guided.

        An interval becomes the narrowest that covers the same evaluations, and ends where one
        begins. Eta is 0 for a sampler that does not know it. What is not guided has no negative
        prompt.
        """
        begin, end = self._guided
        scale, interval, condition = 1.0, (0.0, 1.0), info.takes.unguided(self.condition)
        asked = info.takes.scale(self.guidance_scale)
        if info.takes.guidable(self.condition) and asked != 1 and begin < end:
            total, condition = self.evaluations, self.condition
            scale, interval = asked, (begin / total, end / total)
        eta = self.eta if SAMPLERS[self.sampler].eta else 0.0
        return replace(
            self, condition=condition, guidance_scale=scale, guidance_interval=interval, eta=eta
        )

    def seed_of(self, image: int) -> int:
        """The seed of image 0..n-1."""
        return (self.seed + image) % (MAX_SEED + 1)

    @functools.cached_property
    def lane(self) -> LaneId:
        """Where it is drawn: its model at its size."""
        return LaneId(self.model, self.width, self.height)

    @functools.cached_property
    def evaluations(self) -> int:
        """How often the network is evaluated for one image, guidance aside."""
        return SAMPLERS[self.sampler].evaluations(self.steps, self.start)

    def rows(self, evaluation: int) -> int:
        """Rows of one image at evaluation 0..evaluations-1: two if it is guided."""
        start, end = self.guidance_interval
        return 2 if self.guidance_scale != 1 and start <= evaluation / self.evaluations < end else 1

    @functools.cached_property
    def work(self) -> int:
        """Rows of the whole request."""
        begin, end = self._guided
        return self.n * (self.evaluations + max(end - begin, 0))

    @property
    def _guided(self) -> tuple[int, int]:
        """The evaluations begin..end-1 are guided, by the comparisons that `rows` makes."""
        if self.guidance_scale == 1:
            return 0, 0
        total = self.evaluations
        begin, end = (
            bisect_left(range(total), edge, key=lambda evaluation: evaluation / total)
            for edge in self.guidance_interval
        )
        return begin, end


@dataclass(frozen=True)
class Request:
    """A valid request: what to draw, how urgent it is, how often to show it, and who asks.

    `timeout` is in seconds; the engine's limit counts where it is None. `previews` is the number of
    previews per image.
    """

    params: SamplingParams
    priority: int = 0
    timeout: float | None = None
    previews: int = 0
    asker: Asker = NOBODY


def preview_points(evaluations: int, previews: int) -> frozenset[int]:
    """The evaluations, of 1..evaluations-1, after which an image is shown.

    At most `previews`, evenly spaced.
    """
    wanted = (round(evaluations * k / (previews + 1)) for k in range(1, previews + 1))
    return frozenset(point for point in wanted if 0 < point < evaluations)


class Status(Enum):
    """QUEUED -> RUNNING -> DONE | FAILED | CANCELLED. Only the scheduler changes it."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class Job:
    """A request inside the worker; images finish on their own and leave together.

    A `long` one gives way to shorter ones; `costs.is_long` decides it once.
    """

    id: int
    request: Request
    long: bool = False
    status: Status = Status.QUEUED
    begun: int = 0  # images that have had a slot
    images: dict[int, Pixels] = field(default_factory=dict)
    denoised: float = 0.0  # when the last step of its last image began; time.perf_counter()
    cut: Cut = NOTHING_CUT  # known when its first image starts
    previews: Set[int] = field(init=False)  # the evaluations after which its images are shown

    def __post_init__(self) -> None:
        self.previews = preview_points(self.params.evaluations, self.request.previews)

    @property
    def params(self) -> SamplingParams:
        """What it draws."""
        return self.request.params

    @property
    def asker(self) -> Asker:
        """Who asks."""
        return self.request.asker

    @property
    def ended(self) -> bool:
        """Whether the job has reached its last state."""
        return self.status in (Status.DONE, Status.FAILED, Status.CANCELLED)


@dataclass(eq=False)
class Image:
    """One image of a job: how many evaluations it has had, and the slot and tick of the last."""

    job: Job
    index: int
    key: tuple[float, int, int]  # orders those in flight: (virtual arrival, job, image)
    evaluation: int = 0
    slot: int = -1
    ridden: int = -1

    @property
    def rows(self) -> int:
        """Rows of its next evaluation."""
        return self.job.params.rows(self.evaluation)

    @property
    def left(self) -> int:
        """Evaluations still to be made."""
        return self.job.params.evaluations - self.evaluation

    @property
    def long(self) -> bool:
        """Whether it gives way to short ones."""
        return self.job.long
