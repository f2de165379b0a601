"""The worker's loop over one model, without a server: crowds of requests, and a closed loop."""

import itertools
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from app.engine.errors import GenerationFailed
from app.engine.job import Request, SamplingParams
from app.engine.lane import Ended, Lane
from app.engine.runner import Runner
from benchmarks.device.findings import Row, Setting
from benchmarks.workload import STEPS, workload
from models.conditioning import Condition
from models.pipeline import LatentDiffusion, to_uint8
from models.sampling import SAMPLERS

_WARMUP = 0.4  # seconds
_SIDE = 32  # pixels of a digit


Made = list[list[bytes | str | None]]  # by request and image: pixels, or the reason why not


def turn(lane: Lane) -> list[Ended]:
    """One round of the worker's loop; the requests that ended with it."""
    ended = lane.run(lane.plan())
    return ended + lane.deliver(wait=not lane.busy)


def crowd(runner: Runner, wanted: Sequence[SamplingParams], slots: int) -> Made:
    """Draw all requests together, one more of them coming with every tick."""
    lane, waiting = Lane(runner, slots=slots), list(enumerate(wanted))
    made: Made = [[None] * params.n for params in wanted]
    while waiting or lane.active:
        if waiting:
            number, params = waiting.pop(0)
            lane.submit(number, Request(params))
        for end in turn(lane):
            for k in range(end.job.params.n):
                pixels = end.job.images.get(k)
                made[end.job.id][k] = pixels.data if pixels else end.reason
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
    slots: int | None,
    wanted: Iterator[SamplingParams],
    seconds: float = 1.0,
    ticks: int | None = None,
    warmup: float = _WARMUP,
) -> Pace:
    """So many requests always in flight; decoding included.

    Measures for so many seconds, after a while to warm up; or for so many ticks from the first.
    """
    lane, numbers = Lane(runner, slots=slots), itertools.count()
    images, counted, began = 0, ticks is not None, time.perf_counter()
    for _ in range(in_flight):
        lane.submit(next(numbers), Request(next(wanted)))
    while True:
        for end in turn(lane):
            if end.reason is not None:
                raise GenerationFailed(end.reason)
            images += 1
            lane.submit(next(numbers), Request(next(wanted)))
        passed = time.perf_counter() - began
        if not counted and passed > warmup:
            counted, began, images = True, time.perf_counter(), 0
            lane.progress()  # counts from here
        elif counted and (lane.scheduler.ticks >= ticks if ticks else passed > seconds):
            break
    done = lane.progress()
    for job in list(lane.scheduler.jobs):
        lane.cancel(job)
    while lane.active:
        turn(lane)
    return Pace(passed, done.ticks, done.rows, images)


def pace_row(
    setting: Setting, runner: Runner, in_flight: int, slots: int, ticks: int | None = None
) -> Row:
    """A closed loop as a row of a table."""
    steps = (2, 3) if setting.small else STEPS
    wanted = digits_workload(in_flight, steps)
    return told(in_flight, closed_loop(runner, in_flight, slots, wanted, ticks=ticks))


def told(in_flight: int, pace: Pace) -> Row:
    """How a closed loop went, as a row of a table."""
    made, rate = max(pace.ticks, 1), pace.rows_per_second
    return {
        "in flight": in_flight,
        "rows/s": round(rate, 1 if rate < 100 else None),
        "images/s": round(pace.images / pace.seconds, 1 if rate >= 100 else 2),
        "ms per tick": round(pace.seconds / made * 1000, 3),
        "rows per tick": round(pace.rows / made, 1),
    }


def digits_workload(stream: int, steps: Sequence[int]) -> Iterator[SamplingParams]:
    """The benchmark's workload, for the digits."""
    for one in workload(stream, steps):
        yield asked_of_digits(one.label, one.steps, one.guidance_scale, seed=one.seed)
