"""What the machine can do at best, without a server.

    python -m benchmarks.limit device|machine|diffusers|ours|loop

Prints JSON. A row is one evaluation of the UNet: one per step of an image, or two if guided.
"""

import itertools
import json
import time
from collections.abc import Callable

import click
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from app.engine.job import Image, Job, Request
from app.engine.runner import Runner
from app.engine.wire import Load
from benchmarks.device.loop import asked_of_digits, closed_loop, digits_workload
from benchmarks.peers.sampling import Digits, best_device
from benchmarks.workload import STEPS
from models.library import find

BATCHES = (1, 8, 16, 32, 64, 128)  # rows
SIZES = (512, 1024, 2048, 4096)  # of the square matrices
SECONDS = 1.0  # of each measurement
IN_FLIGHT = (1, 4, 16, 64)  # as many as there are clients of the closed loop


def device() -> str:
    """The name of the device that the networks run on."""
    return torch.cuda.get_device_name() if best_device() == "cuda" else "CPU"


def machine() -> dict[str, float]:
    """FLOP per second of float32 matrix products, and FLOP per row of the UNet."""
    speeds = []
    for size in SIZES:
        a, b = torch.randn(2, size, size, device=best_device())
        speeds.append(2 * size**3 * calls_per_second(lambda a=a, b=b: a @ b))
    digits = Digits("cpu")
    x, label = torch.randn(1, 4, 8, 8), torch.tensor([0])
    # Attention counts as the products it is made of; its fused CPU kernel would not count at all.
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        digits.unet(x, 0, class_labels=label)
    return {"flops": max(speeds), "flops_a_row": counter.get_total_flops()}


def diffusers() -> dict[str, float]:
    """Rows per batch -> rows per second of diffusers' UNet and DDIM scheduler."""
    digits, speeds = Digits(best_device()), {}
    digits.scheduler.set_timesteps(50)
    for batch in BATCHES:
        x = torch.randn(batch, 4, 8, 8, device=digits.device)
        labels = torch.arange(batch, device=digits.device) % 10
        timesteps = itertools.cycle(digits.scheduler.timesteps)

        def step(
            x: torch.Tensor = x,
            labels: torch.Tensor = labels,
            timesteps: "itertools.cycle[torch.Tensor]" = timesteps,
        ) -> None:
            t = next(timesteps)
            output = digits.unet(x, t, class_labels=labels).sample
            digits.scheduler.step(output, t, x)

        speeds[str(batch)] = batch * calls_per_second(step)
    return speeds


def ours() -> dict[str, float]:
    """Rows per batch -> rows per second of the engine's runner, guided."""
    folder = find("digits")
    load = Load({}, best_device(), "float32", "auto", compile=False, slots=64, rows=None)
    runner = Runner.open(folder.name, folder, load)
    runner.warm_up()
    speeds = {}
    for bucket in runner.info.costs.buckets:
        params = asked_of_digits(7, 50, 3.0, n=bucket.rows // 2)
        job = Job(0, Request(params))
        images = [Image(job, k, (0, 0, k), slot=k) for k in range(params.n)]
        for image in images:
            runner.start(image)
        steps = itertools.cycle(range(params.steps))

        def step(
            images: list[Image] = images,
            rows: int = bucket.rows,
            steps: "itertools.cycle[int]" = steps,
        ) -> None:
            now = next(steps)
            for image in images:
                image.evaluation = now
            runner.step(images, rows)

        speeds[str(bucket.rows)] = bucket.rows * calls_per_second(step)
    return speeds


def loop() -> dict[str, float]:
    """Requests in flight -> rows per second of the worker's loop, decoding included."""
    folder, slots, seconds = find("digits"), 64, 4.0
    load = Load({}, best_device(), "float32", "auto", compile=False, slots=slots, rows=None)
    runner = Runner.open(folder.name, folder, load)
    runner.warm_up()
    return {
        str(clients): closed_loop(
            runner, clients, slots, digits_workload(clients, STEPS), seconds
        ).rows_per_second
        for clients in IN_FLIGHT
    }


@torch.inference_mode()
def calls_per_second(call: Callable[[], object]) -> float:
    """Calls per second of `call`, after three calls to warm up."""
    for _ in range(3):
        call()
    finish()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        call()
        calls += 1
    finish()
    return calls / (time.perf_counter() - began)


def finish() -> None:
    """Wait until the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


MEASUREMENTS = {
    "device": device,
    "machine": machine,
    "diffusers": diffusers,
    "ours": ours,
    "loop": loop,
}


@click.command()
@click.argument("what", type=click.Choice(list(MEASUREMENTS)))
def main(what: str) -> None:
    """Measure WHAT and print it."""
    click.echo(json.dumps(MEASUREMENTS[what]()))


if __name__ == "__main__":
    main()
