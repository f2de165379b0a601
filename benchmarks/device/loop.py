"""The worker's loop over one model, without a server: crowds of requests, and a closed loop."""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from app.engine.errors import OutOfMemory
from app.engine.job import Image, Job, Request, SamplingParams
from app.engine.results import Pixels
from app.engine.runner import Runner
from app.engine.scheduler import Scheduler
from benchmarks.device.findings import Row, Setting
from benchmarks.workload import STEPS, workload
from models.conditioning import Condition
from models.pipeline import LatentDiffusion, to_uint8
from models.sampling import SAMPLERS

_WARMUP = 0.4  # seconds
_SIDE = 32  # pixels of a digit


@dataclass
class Loop:
    """The worker's loop over one model, tick by tick."""

    runner: Runner
    slots: int
    ticks: int = 0
    rows: int = 0
    pending: int = 0  # images that are being decoded
    scheduler: Scheduler = field(init=False)

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.slots, self.runner.info.costs)

    def tick(self) -> list[tuple[Image, Pixels | str]]:
        """One step of those that ride; the images that came out, or why one cannot.

        Raises:
            OutOfMemory: even for one image.
        """
        scheduler = self.scheduler
        plan = scheduler.plan()
        for image in plan.admitted:
            self.runner.start(image)
        if plan.riding:
            rows = sum(image.rows for image in plan.riding)
            try:
                self.runner.step(plan.riding, plan.rows)
            except OutOfMemory:
                if scheduler.stumble(plan, memory=True):
                    raise
            else:
                leaving = scheduler.advance(plan)
                self.runner.decode(leaving)
                self.ticks, self.rows = self.ticks + 1, self.rows + rows
                self.pending += len(leaving)
        made = self.runner.decoded(wait=self.pending > 0 and not scheduler.busy)
        self.pending -= len(made)
        for image, result in made:
            if isinstance(result, str):
                scheduler.fail(image.job)
            else:
                scheduler.deliver(image, result)
        return made

    def drain(self) -> None:
        """Cancel what is in flight, and wait for what is being decoded."""
        for job in list(self.scheduler.jobs):
            self.scheduler.cancel(job)
        while self.pending:
            self.tick()


Made = list[list[bytes | str | None]]  # by request and image: pixels, or the reason why not


def crowd(runner: Runner, wanted: Sequence[SamplingParams], slots: int) -> Made:
    """Draw all requests together, one more of them coming with every tick."""
    loop, jobs = Loop(runner, slots), [Job(k, Request(params)) for k, params in enumerate(wanted)]
    made: Made = [[None] * params.n for params in wanted]
    waiting = list(jobs)
    while waiting or loop.scheduler.jobs or loop.pending:
        if waiting:
            loop.scheduler.submit(waiting.pop(0))
        for image, result in loop.tick():
            made[image.job.id][image.index] = result if isinstance(result, str) else result.data
    return made


def plain_loop(model: LatentDiffusion, params: SamplingParams) -> list[bytes | str | None]:
    """The pixels of the model's own loop, which the engine has to reproduce."""
    images = model.sample(
        [params.condition.index] * params.n,
        [params.seed_of(k) for k in range(params.n)],
        steps=params.steps,
        sampler=params.sampler,
        spacing=params.spacing,
        guidance_scale=params.guidance_scale,
        guidance_interval=params.guidance_interval,
        eta=params.eta,
        start=params.start,
    )
    return [pixels.numpy().tobytes() for pixels in to_uint8(images.cpu())]


def requests(setting: Setting, count: int) -> list[SamplingParams]:
    """Requests that differ in all that a request can say, always the same ones."""
    chance, wanted = random.Random(1), []
    for k in range(count):
        scale = chance.choice([1.0, 1.0, 2.5, 7.0])
        wanted.append(
            asked_of_digits(
                chance.randrange(10),
                chance.choice([2, 3] if setting.small else [5, 10, 20, 50]),
                scale,
                interval=chance.choice([(0.0, 1.0), (0.2, 0.6)]),
                eta=chance.choice([0.0, 0.0, 0.3, 1.0]),
                seed=1000 * k,
                n=chance.choice([1, 1, 2, 5]),
            )
        )
        sampler = chance.choice(list(SAMPLERS.values()))
        if sampler.name != wanted[-1].sampler:
            spacing = chance.choice(sampler.spacings)
            wanted[-1] = replace(wanted[-1], sampler=sampler.name, spacing=spacing, eta=0.0)
    return wanted


def asked_of_digits(
    label: int,
    steps: int,
    guidance_scale: float,
    *,
    seed: int = 0,
    n: int = 1,
    interval: tuple[float, float] = (0.0, 1.0),
    eta: float = 0.0,
) -> SamplingParams:
    """What draws digits."""
    return SamplingParams(
        "model", Condition(label), steps, guidance_scale, interval, eta, seed, n, _SIDE, _SIDE
    )


@dataclass(frozen=True)
class Pace:
    """How a closed loop went."""

    seconds: float
    ticks: int
    rows: int
    images: int

    @property
    def rows_per_second(self) -> float:
        return self.rows / self.seconds


def closed_loop(
    runner: Runner,
    in_flight: int,
    slots: int,
    steps: Sequence[int],
    seconds: float = 1.0,
    ticks: int | None = None,
) -> Pace:
    """So many requests always in flight, of the benchmark's workload; decoding included.

    Measures for so many seconds, after a while to warm up; or for so many ticks from the first.
    """
    loop, numbers = Loop(runner, slots), itertools.count()
    params = _params(in_flight, steps)
    images, counted, began = 0, ticks is not None, time.perf_counter()
    for _ in range(in_flight):
        loop.scheduler.submit(Job(next(numbers), Request(next(params))))
    while True:
        for _ in loop.tick():
            images += 1
            loop.scheduler.submit(Job(next(numbers), Request(next(params))))
        passed = time.perf_counter() - began
        if not counted and passed > _WARMUP:
            counted, began = True, time.perf_counter()
            images = loop.ticks = loop.rows = 0
        elif counted and (loop.ticks >= ticks if ticks else passed > seconds):
            break
    pace = Pace(passed, loop.ticks, loop.rows, images)
    loop.drain()
    return pace


def pace_row(
    setting: Setting, runner: Runner, in_flight: int, slots: int, ticks: int | None = None
) -> Row:
    """A closed loop as a row of a table."""
    steps = (2, 3) if setting.small else STEPS
    pace = closed_loop(runner, in_flight, slots, steps, ticks=ticks)
    made = max(pace.ticks, 1)
    return {
        "in flight": in_flight,
        "rows/s": round(pace.rows_per_second),
        "images/s": round(pace.images / pace.seconds, 1),
        "ms per tick": round(pace.seconds / made * 1000, 3),
        "rows per tick": round(pace.rows / made, 1),
    }


def _params(stream: int, steps: Sequence[int]) -> Iterator[SamplingParams]:
    for one in workload(stream, steps):
        yield asked_of_digits(one.label, one.steps, one.guidance_scale, seed=one.seed)
