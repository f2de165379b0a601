"""A device that takes the time that it is told to, by a clock that only it moves."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.engine.costs import Bucket, Costs
from app.engine.job import Image, Request, SamplingParams
from app.engine.lane import Ended, Lane
from app.engine.lanes import Lanes
from app.engine.model_info import ModelInfo
from app.engine.results import Pixels
from app.engine.turnstile import Turn
from models.sizes import Sizes
from tests.fakes import INFO, pixel, seed_of

# As the digits on two cores: 48 rows are fastest, 64 hardly faster.
DIGITS = {2: 0.0024, 4: 0.0034, 8: 0.0055, 16: 0.0085, 24: 0.012, 32: 0.0155, 48: 0.022, 64: 0.0288}


@dataclass
class Device:
    """One device: ticks run one after the other.

    A CPU begins a tick when the last one is done. The host of a GPU is one tick `ahead`. Where a
    step is made `at_once`, as by eager PyTorch, who asks for it has it when it is done. What is
    decoded runs between two ticks, for so many seconds per image.
    """

    ahead: bool = False
    at_once: bool = False
    decoding: float = 0.0
    noise: Callable[[], float] = lambda: 1.0
    now: float = 100.0  # by the clock
    start: float = 0.0  # when the tick given last begins
    end: float = 0.0  # and ends
    work: dict[str, float] = field(default_factory=dict)  # seconds, by model

    def run(self, model: str, seconds: float, decoded: int) -> None:
        """Give it a tick, after so many images were given it to decode."""
        self.now = max(self.now, self.start if self.ahead else self.end)
        took = seconds * self.noise()
        self.start = max(self.now, self.end) + decoded * self.decoding
        self.end = self.start + took
        if not self.ahead:
            self.now = self.start
        self.work[model] = self.work.get(model, 0.0) + took

    def settle(self) -> None:
        """Wait until it has nothing to do."""
        self.now = max(self.now, self.end)


class SimulatedRunner:
    """A runner without a network on such a device."""

    def __init__(
        self, device: Device, seconds: Mapping[int, float], prior: Costs | None = None, **more: Any
    ) -> None:
        self.device, self.seconds, self.begun = device, seconds, 0.0
        self.info: ModelInfo = replace(INFO, costs=prior or costs_of(seconds), slots=64, **more)
        self._finishing: list[Image] = []
        self._finished: list[Image] = []

    def at(self, width: int, height: int) -> "SimulatedRunner":
        area = width * height
        seconds = {rows: each * area for rows, each in self.seconds.items()}
        return SimulatedRunner(
            self.device, seconds, name=self.info.name, sizes=Sizes(width, height)
        )

    def warm_up(self, *, turn: Turn) -> None:
        self.device.now += 1.0

    def expect(self, params: SamplingParams) -> None:
        pass

    def start(self, image: Image) -> None:
        pass

    def step(self, images: Sequence[Image], rows: int) -> None:
        assert sum(image.rows for image in images) <= rows
        decoded, self._finishing = self._finishing, []
        self.device.run(self.info.name, self.seconds[rows], len(decoded))
        self._finished += decoded
        self.begun = self.device.now
        if self.device.at_once:
            self.device.settle()

    def settle(self) -> None:
        self.device.settle()

    def preview(self, images: Sequence[Image]) -> None:
        raise NotImplementedError

    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        return []

    def decode(self, images: Sequence[Image]) -> None:
        self._finishing += images

    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        device = self.device
        if self._finishing and (wait or device.now >= device.end):
            device.settle()
            device.now += len(self._finishing) * device.decoding
            self._finished, self._finishing = self._finished + self._finishing, []
        finished, self._finished = self._finished, []
        return [(image, pixel(seed_of(image))) for image in finished]


def costs_of(seconds: Mapping[int, float]) -> Costs:
    return Costs(tuple(Bucket(rows, each) for rows, each in seconds.items()))


class Engine:
    """The worker's loop over a simulated device, and who asks.

    `arrivals` are (seconds from the start, request), ascending; `answered` is called at each end
    and may return another request.
    """

    def __init__(self, device: Device, lanes: Lanes) -> None:
        self.device, self.lanes = device, lanes
        self.jobs = 0
        self.idle = 0.0  # seconds so far
        self.answered: Callable[[Ended], Request | None] = lambda _: None
        self.came: Callable[[int, Request], None] = lambda *_: None

    @classmethod
    def of(cls, device: Device, *runners: SimulatedRunner, sizes: int = 4) -> "Engine":
        lanes = Lanes(clock=lambda: device.now, sizes=sizes)
        for runner in runners:
            lanes.add(runner)
        return cls(device, lanes)

    def submit(self, request: Request) -> int:
        self.jobs += 1
        self.came(self.jobs, request)
        self.lanes.submit(self.jobs, request)
        return self.jobs

    def run(self, seconds: float, arrivals: Iterable[tuple[float, Request]] = ()) -> None:
        """Let so much time pass; every tick goes through plan, run and deliver."""
        began = self.device.now
        waiting = [(began + after, request) for after, request in arrivals]
        while self.device.now < began + seconds:
            while waiting and waiting[0][0] <= self.device.now:
                self.submit(waiting.pop(0)[1])
            while wanted := self.lanes.missing():
                assert self.lanes.open(wanted) == []
            if not self.lanes.busy:
                self._deliver()
                if self.lanes.decoding:
                    self.device.settle()
                    continue
                self.lanes.rest()
                if self.lanes.busy:
                    continue
                until = waiting[0][0] if waiting else began + seconds
                self.idle += max(until - self.device.now, 0.0)
                self.device.now = max(self.device.now, until)
                continue
            self.device.now = max(self.device.now, self.lanes.due)
            lane = self.lanes.next()
            assert lane is not None
            assert lane.run(lane.plan(), alone=self.lanes.alone(lane)) == []
            lane.scheduler.audit()
            self._deliver()

    def _deliver(self) -> None:
        for lane in self.lanes:
            for end in lane.deliver():
                assert end.reason is None
                if (another := self.answered(end)) is not None:
                    self.submit(another)

    def lane(self, model: str) -> Lane:
        return next(lane for lane in self.lanes if lane.id.model == model)

    def lane_at(self, side: int) -> Lane:
        return next(lane for lane in self.lanes if lane.id.width == side)


def jitter(seed: int, spread: float) -> Callable[[], float]:
    """Noise as on a machine with other things to do: ticks are longer, by `spread` on average."""
    chance = random.Random(seed)
    return lambda: 1 + chance.expovariate(1 / spread)
