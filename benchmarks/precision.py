"""What bfloat16 does on a CPU, beside float32: speed, pictures, exactness.

    python -m benchmarks.precision --work runs/precision

Writes benchmarks/results/precision.md. The digits are drawn by the engine in both precisions and
judged as `darkroom evaluate` judges them. Their UNet is small; what bfloat16 does to the speed of a
large one is measured on random weights in Stable Diffusion's shape, at 256 x 256 pixels.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor

from app.engine.backends.openvino import OpenVino
from app.engine.job import Request, SamplingParams
from app.engine.lane import Lane
from app.engine.offline import draw
from app.engine.runner import Runner
from app.engine.wire import Load
from benchmarks.device.findings import Setting
from benchmarks.device.large_model import large_model
from benchmarks.device.loop import asked_of_digits, turn
from benchmarks.device.precision import FLOAT32
from models.library import find
from models.training.classifier import Judge, train_judge
from models.training.data import default_folder, load_both
from models.training.metrics import frechet_distance
from models.training.recipe import Recipe

DTYPES = ("float32", "bfloat16")
STEPS, CROWD = 20, 40  # of every picture; requests that are compared alone and together
LARGE_SIDE = 256  # pixels
RESULTS = Path(__file__).parent / "results" / "precision.md"
_HEAD = (
    "| model | precision | rows/s | beside float32 | Fréchet distance | most of a pixel, of 255 "
    "| exact, as measured | alone as in a crowd |",
    "|---|---|---|---|---|---|---|---|",
)


class OnCpu(Setting):
    """Where no GPU is faked."""

    on = "cpu"


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=default_folder())
@click.option("--work", type=click.Path(path_type=Path), required=True, help="The judge's cache.")
@click.option("--samples", default=2000, show_default=True)
@click.option("--large/--no-large", default=True, help="The large UNet, too: minutes, 12 GiB.")
def main(data_dir: Path, work: Path, samples: int, large: bool) -> None:
    """Measure both precisions and write the table."""
    lines = [*_HEAD, *digits(data_dir, work, samples), *(large_rates() if large else ())]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo(RESULTS.read_text(encoding="utf-8"))


def digits(data_dir: Path, work: Path, samples: int) -> Iterator[str]:
    """The model that ships."""
    both = load_both(Recipe.read("digits").data, data_dir)
    judge = train_judge(both.train, work, torch.device("cpu"))
    order = torch.randperm(len(both.test), generator=torch.Generator().manual_seed(0))[:samples]
    real, _ = judge.measure(both.test.scaled(order))
    first, base = None, 0.0
    for dtype in DTYPES:
        runner = opened(dtype)
        made = pictures(runner, samples)
        first, base = made if first is None else first, base or rate(runner)
        apart = (made.int() - first.int()).abs().max().item()
        same = alone_as_together(runner)
        yield row("digits", runner, base, f"{distance(judge, made, real):.3f} | {apart}", same)


def large_rates() -> Iterator[str]:
    """Speed and exactness alone: its weights draw nothing."""
    model = large_model(OnCpu("cpu", small=False), FLOAT32)
    base = 0.0
    for dtype in DTYPES:
        side = LARGE_SIDE // model.vae.config.downscale
        backend = OpenVino(model, shape=(4, side, side), dtype=getattr(torch, dtype))
        runner = Runner("large", model, "", backend, slots=8)
        runner.warm_up()
        base = base or rate(runner)
        yield row("Stable Diffusion's shape", runner, base, "- | -", "-")


def opened(dtype: str) -> Runner:
    """The digits on OpenVINO, warm."""
    load = Load({}, "cpu", dtype, "openvino", compile=False, slots=64, rows=None)
    runner = Runner.open("digits", find("digits"), load)
    runner.warm_up()
    return runner


def pictures(runner: Runner, samples: int) -> Tensor:
    """Every class equally often, (B, H, W, C) uint8."""
    made = []
    for label in range(10):
        params = asked_of_digits(label, STEPS, 1.0, seed=1000 * label, n=samples // 10)
        made += draw(runner, params)
    return torch.stack(
        [
            torch.frombuffer(bytearray(p.data), dtype=torch.uint8).view(p.height, p.width, -1)
            for p in made
        ]
    )


def distance(judge: Judge, made: Tensor, real: Tensor) -> float:
    """Fréchet distance of pictures to real ones, given by their features."""
    features, _ = judge.measure(made.movedim(-1, 1).float() / 127.5 - 1)
    return frechet_distance(features, real)


def alone_as_together(runner: Runner) -> str:
    """Whether requests of all kinds have the same pixels alone and in a crowd."""
    wanted = [
        replace(asked_of_digits(k % 10, 3 + k % 9, 1.0 + k % 3, seed=k, n=1 + k % 3), sampler=name)
        for k, name in enumerate(("ddim", "dpmpp_2m", "euler_a", "heun") * (CROWD // 4))
    ]
    together = crowd(runner, wanted)
    alone = [[pixels.data for pixels in draw(runner, params)] for params in wanted]
    return "yes" if together == alone else "no"


def crowd(runner: Runner, wanted: list[SamplingParams]) -> list[list[bytes]]:
    """The pixels of requests that all come at once."""
    lane = Lane(runner, slots=16)
    jobs = [lane.submit(number, Request(params)) for number, params in enumerate(wanted)]
    while lane.active:
        turn(lane)
    return [[job.images[k].data for k in range(job.params.n)] for job in jobs]


def rate(runner: Runner) -> float:
    """Rows per second of the best bucket."""
    return max(bucket.rate for bucket in runner.info.costs.buckets)


def row(name: str, runner: Runner, base: float, pictures: str, same: str) -> str:
    """A line of the table."""
    info, made = runner.info, rate(runner)
    exact = "yes" if info.exact else "no"
    cells = (
        name,
        info.dtype,
        f"{made:,.0f}" if made >= 100 else f"{made:.3g}",
        f"{made / base:.2f}",
        pictures,
        exact,
        same,
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
