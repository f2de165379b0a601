"""The ways to make a tick of the digits that are timed: the engine's, parts of it, diffusers'."""

import itertools
from collections.abc import Iterator, Sequence

import torch

from app.engine.backends.base import Rows, Slots, advance, unet_network
from app.engine.job import Image, Job, Params
from benchmarks.device.engine import Engine
from benchmarks.device.findings import Row, Setting
from benchmarks.device.machine import LAYOUTS
from benchmarks.device.precision import Precision
from benchmarks.device.timing import (
    Call,
    graphed,
    side_by_side,
    speed,
    timed,
)
from models.library import find
from models.pipeline import LatentDiffusion


def opened(setting: Setting, precision: Precision) -> LatentDiffusion:
    model = LatentDiffusion.open(find("digits"), device=setting.device, dtype=precision.dtype)
    precision.use()
    return model


def unet(
    setting: Setting, precision: Precision, layout: str, sizes: Sequence[int]
) -> Iterator[Row]:
    """The floor: what the device does with the network alone."""
    model = opened(setting, precision)
    model.unet.to(memory_format=LAYOUTS[layout])  # type: ignore[call-overload]
    for size in sizes:
        x = torch.randn(size, *model.latent_shape, device=setting.device, dtype=precision.dtype)
        t = torch.arange(size, device=setting.device)
        call: Call = lambda x=x, t=t: model.unet(x, t, t % 10)  # noqa: E731
        yield speed(size, timed(setting, graphed(setting, call)))


def riding(engine: Engine, rows: int) -> Call:
    """A step of as many guided images as a bucket holds."""
    scale, count = (3.0, rows // 2) if rows > 1 else (1.0, 1)
    job = Job(0, Params("model", 7, 50, scale, (0.0, 1.0), 0.0, 0, count))
    images = [Image(job, k, (0, 0, k), slot=k) for k in range(count)]
    for image in images:
        engine.runner.start(image)
    steps = itertools.cycle(range(job.params.steps))

    def step() -> None:
        now = next(steps)
        for image in images:
            image.step = now
        engine.runner.step(images, rows)

    return step


def tick(model: LatentDiffusion, size: int, device: str) -> Call:
    """A tick as the backends run it, guidance and DDIM included."""
    slots, network = Slots.of(size + 2, model), unet_network(model)
    slots.x.normal_()
    index = torch.arange(size, device=device)
    rows = Rows(
        read=index,
        write=index,
        t=index * 7 % 1000,
        t_prev=index * 7 % 1000 - 1,
        label=index % 10,
        null=index,
        scale=torch.ones(size, device=device),
        eta=torch.zeros(size, device=device),
        noise=None,
    )
    return lambda: advance(slots, rows, network, model)


def loose(setting: Setting, precision: Precision, sizes: Sequence[int]) -> Iterator[Row]:
    """Ticks operator by operator."""
    model = opened(setting, precision)
    for size in sizes:
        yield speed(size, timed(setting, tick(model, size, setting.device)))


def branches(setting: Setting, precision: Precision, each: int, count: int) -> Iterator[Row]:
    """Several small ticks as branches of one graph: exact whatever the library chooses."""
    model = opened(setting, precision)
    calls = [tick(model, each, setting.device) for _ in range(count)]
    yield speed(each * count, timed(setting, graphed(setting, side_by_side(setting, calls))))


def diffusers(
    setting: Setting, precision: Precision, sizes: Sequence[int], *, compiled: bool
) -> Iterator[Row]:
    """diffusers' UNet and DDIM scheduler, whose rows all have the same timestep."""
    from benchmarks.peers.sampling import Digits

    digits = Digits(setting.device)
    precision.use()
    digits.unet.to(precision.dtype)
    digits.scheduler.set_timesteps(50)
    network = digits.unet
    if compiled:
        torch._dynamo.reset()
        network = torch.compile(digits.unet, mode="reduce-overhead", dynamic=False)
    for size in sizes:
        x = torch.randn(size, 4, 8, 8, device=setting.device, dtype=precision.dtype)
        labels = torch.arange(size, device=setting.device) % 10
        timesteps = itertools.cycle(digits.scheduler.timesteps)

        def step(x=x, labels=labels, timesteps=timesteps) -> None:  # type: ignore[no-untyped-def]
            t = next(timesteps)
            output = network(x, t.to(setting.device), class_labels=labels).sample
            digits.scheduler.step(output, t, x)

        yield speed(size, timed(setting, step, 0.2))
