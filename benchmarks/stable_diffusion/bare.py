"""The worker's loop over one model folder, without a server and without HTTP.

    python -m benchmarks.stable_diffusion.bare FOLDER bfloat16 '{"in_flight": 8, "seconds": 60}'

Prints JSON.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from app.engine.job import SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.runner import Runner
from app.engine.wire import Load
from benchmarks.device.loop import Pace, closed_loop
from benchmarks.peers.sampling import best_device
from benchmarks.stable_diffusion.workload import workload
from models.conditioning import Condition, Prompt


def params(info: ModelInfo, stream: int) -> Iterator[SamplingParams]:
    """The workload as the engine takes it, in the model's own size."""
    for asked in workload(stream):
        yield SamplingParams(
            model=info.name,
            condition=Condition(prompt=Prompt(asked.prompt, asked.negative_prompt)),
            steps=asked.steps,
            guidance_scale=asked.guidance_scale,
            guidance_interval=(0.0, 1.0),
            eta=0.0,
            seed=asked.seed,
            n=1,
            width=info.sizes.width,
            height=info.sizes.height,
            sampler=asked.sampler,
            spacing=asked.spacing,
        ).canonical(info)


def measure(
    folder: Path, dtype: str, in_flight: int, stream: int, seconds: float, warmup: float
) -> Pace:
    """So many requests always in flight, as if so many clients sent them."""
    load = Load({}, best_device(), dtype, "auto", compile=False, slots=None, rows=None)
    runner = Runner.open(folder.name, folder, load)
    runner.warm_up()
    wanted = params(runner.info, stream)
    return closed_loop(runner, in_flight, None, wanted, seconds, warmup=warmup)


@click.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("dtype")
@click.argument("arguments")
def main(folder: Path, dtype: str, arguments: str) -> None:
    """Run the loop over FOLDER; ARGUMENTS are JSON."""
    told: dict[str, Any] = json.loads(arguments)
    click.echo(json.dumps(asdict(measure(folder, dtype, **told))))


if __name__ == "__main__":
    main()
