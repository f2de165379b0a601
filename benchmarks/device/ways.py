"""Ways to make a tick of the digits that are timed: the engine's, and parts of it."""

import itertools
from collections.abc import Iterator, Sequence
from functools import partial

import torch

from app.engine.backends.base import Rows, Slots, advance
from app.engine.job import Image, Job, Request
from benchmarks.device.engine import Engine, open_digits
from benchmarks.device.findings import Row, Setting
from benchmarks.device.loop import asked_of_digits
from benchmarks.device.precision import Precision, loosen
from benchmarks.device.timing import (
    Call,
    graphed,
    side_by_side,
    speed,
    timed,
)
from models.pipeline import LatentDiffusion
from models.samplers import COEFFICIENTS


def unet(
    setting: Setting, precision: Precision, sizes: Sequence[int], loose: bool = False
) -> Iterator[Row]:
    """The floor: what the device does with the network alone."""
    model = open_digits(setting, precision)
    if loose:
        loosen()
    for size in sizes:
        x = torch.randn(size, *model.latent_shape, device=setting.on, dtype=precision.dtype)
        t = torch.arange(size, device=setting.on)
        call = graphed(partial(model.unet, x, t, t % 10))
        yield speed(size, timed(call))


def riding(engine: Engine, rows: int) -> Call:
    """A step of as many guided images as a bucket holds."""
    scale, count = (3.0, rows // 2) if rows > 1 else (1.0, 1)
    job = Job(0, Request(asked_of_digits(7, 50, scale, n=count)))
    images = [Image(job, k, (0, 0, k), slot=k) for k in range(count)]
    for image in images:
        engine.runner.start(image)
    steps = itertools.cycle(range(job.params.steps))

    def step() -> None:
        now = next(steps)
        for image in images:
            image.evaluation = now
        engine.runner.step(images, rows)

    return step


def tick(model: LatentDiffusion, size: int, device: str) -> Call:
    """A tick as the backends run it, guidance and update included."""
    slots = Slots.of(size + 2, model.denoiser, model.latent_shape)
    slots.x.normal_()
    index = torch.arange(size, device=device)
    rows = Rows(
        read=index,
        write=index,
        side=2 * index,
        t=(index * 7 % 1000).float(),
        null=index,
        scale=torch.ones(size, device=device),
        coefficients=torch.rand(size, COEFFICIENTS, device=device),
    )
    return lambda: advance(slots, rows, model.denoiser)


def eager(setting: Setting, precision: Precision, sizes: Sequence[int]) -> Iterator[Row]:
    """Ticks operator by operator."""
    model = open_digits(setting, precision)
    for size in sizes:
        yield speed(size, timed(tick(model, size, setting.on)))


def branches(setting: Setting, precision: Precision, each: int, count: int) -> Iterator[Row]:
    """Several small ticks as branches of one graph: exact whatever the library chooses."""
    model = open_digits(setting, precision)
    calls = [tick(model, each, setting.on) for _ in range(count)]
    yield speed(each * count, timed(graphed(side_by_side(calls))))
