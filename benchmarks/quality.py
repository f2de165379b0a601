"""How good pictures are for what they cost: every sampler, by evaluations of the network.

    python -m benchmarks.quality --data-dir ~/.cache/darkroom

Draws digits with the engine, as the server does, and measures them as `darkroom evaluate` does. A
setting that is already measured is not drawn again. Writes results/samplers.json and the chart;
docs/samplers.md has the table.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import torch
from torch import Tensor

from app.cli.opening import open_runner
from app.engine.job import SamplingParams
from app.engine.offline import draw
from app.engine.runner import Runner
from models.conditioning import Condition
from models.library import locate
from models.sampling import SAMPLERS
from models.training.classifier import Judge, train_judge
from models.training.data import default_folder, load_both
from models.training.metrics import frechet_distance
from models.training.options import DataRecipe
from models.training.randomness import generator

EVALUATIONS = (2, 4, 8, 12, 20, 50)
SPACED = (("dpmpp_2m", "karras"), ("dpmpp_2m", "exponential"))  # besides every sampler's default
SAMPLES = 1000  # per setting, equally many of each class; image k has seed k
RESULTS = Path(__file__).parent / "results" / "samplers.json"


class Setting(NamedTuple):
    """What was drawn: as many steps as `evaluations` of the network are enough for."""

    sampler: str
    spacing: str
    evaluations: int

    @property
    def steps(self) -> int:
        """The most steps that make no more evaluations; 0 where not even one step is."""
        count = SAMPLERS[self.sampler].evaluations
        return max(
            (n for n in range(1, self.evaluations + 1) if count(n) <= self.evaluations), default=0
        )

    @property
    def name(self) -> str:
        """The sampler, and its spacing if it is not the default."""
        title = SAMPLERS[self.sampler].title
        return title if self.spacing == "default" else f"{title}, {self.spacing}"


class Figures(NamedTuple):
    """How far 1,000 pictures are from real ones, and how many show what was asked for."""

    frechet_distance: float
    accuracy: float


Measured = dict[Setting, Figures]


def settings() -> Iterator[Setting]:
    """All that is measured."""
    for sampler, spacing in (*((name, "default") for name in SAMPLERS), *SPACED):
        for evaluations in EVALUATIONS:
            yield Setting(sampler, spacing, evaluations)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), default=default_folder())
@click.option("--model", default="digits", show_default=True)
def main(data_dir: Path, model: str) -> None:
    """Measure every setting."""
    both = load_both(DataRecipe("mnist", size=32), data_dir)
    judge = train_judge(both.train, default_folder(), torch.device("cpu"))
    order = torch.randperm(len(both.test), generator=generator(0, "real", 0))[:SAMPLES]
    real, _ = judge.measure(both.test.scaled(order))
    runner, made = open_runner(locate(model), "cpu"), read()
    runner.warm_up()
    for setting in settings():
        if setting.steps and setting not in made:
            made[setting] = measure(runner, setting, judge, real)
            write(made)
            click.echo(f"{setting.name}, {setting.evaluations}: {made[setting]}")
    from benchmarks.quality_plot import chart  # matplotlib is there for benchmarks alone

    chart(rows(made), EVALUATIONS, RESULTS.with_suffix(".png"))
    click.echo(table(made))


def measure(runner: Runner, setting: Setting, judge: Judge, real: Tensor) -> Figures:
    """Draw a thousand digits and judge them."""
    info, images, labels = runner.info, [], []
    each = SAMPLES // len(info.classes.names)
    for index in range(len(info.classes.names)):
        params = SamplingParams(
            model=info.name,
            condition=Condition(index),
            steps=setting.steps,
            guidance_scale=info.guidance_scale,
            guidance_interval=(0.0, 1.0),
            eta=0.0,
            seed=index * each,
            n=each,
            width=info.sizes.width,
            height=info.sizes.height,
            sampler=setting.sampler,
            spacing=setting.spacing,
        )
        for pixels in draw(runner, params):
            values = torch.frombuffer(bytearray(pixels.data), dtype=torch.uint8)
            images.append(values.view(1, pixels.height, pixels.width) / 127.5 - 1)
        labels += [index] * each
    features, answers = judge.measure(torch.stack(images))
    accuracy = float((answers == torch.tensor(labels)).double().mean())
    return Figures(frechet_distance(features, real), accuracy)


def read() -> Measured:
    """What was measured before."""
    if not RESULTS.exists():
        return {}
    return {
        Setting(*entry["setting"]): Figures(*entry["figures"])
        for entry in json.loads(RESULTS.read_text(encoding="utf-8"))
    }


def write(made: Measured) -> None:
    """Keep what was measured."""
    entries = [
        {"setting": list(setting), "figures": [round(value, 4) for value in figures]}
        for setting, figures in made.items()
    ]
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    RESULTS.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def table(made: Measured) -> str:
    """Fréchet distance and accuracy, by sampler and evaluations, as Markdown."""
    lines = [
        "| sampler | " + " | ".join(map(str, EVALUATIONS)) + " |",
        "|---" * (1 + len(EVALUATIONS)) + "|",
    ]
    for name, row in rows(made).items():
        cells = [
            f"{figures.frechet_distance:.1f} ({figures.accuracy:.1%})" if figures else ""
            for figures in row
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rows(made: Measured) -> dict[str, list[Figures | None]]:
    """The figures of every sampler, by evaluations."""
    found: dict[str, list[Figures | None]] = {}
    for setting in settings():
        found.setdefault(setting.name, []).append(made.get(setting))
    return found


if __name__ == "__main__":
    main()
