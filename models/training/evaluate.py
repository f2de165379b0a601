"""How good a trained model is: class accuracy, Fréchet distance, precision and recall.

Every distance is taken in the features of one small classifier against the same real test set, with
two rows to read it by: other real images (the floor) and real images through the VAE alone.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor
from tqdm import tqdm

from models.asked import Options, Sampling
from models.pipeline import LatentDiffusion
from models.training.classifier import Judge, train_judge
from models.training.data import load_both
from models.training.images import Images
from models.training.metrics import frechet_distance, precision_recall
from models.training.options import DataRecipe
from models.training.randomness import generator
from models.training.vae import psnr

_CHUNK = 256
_MIN_SAMPLES = 4  # precision and recall look at the third neighbour
# A judge who is right less often measures its own mistakes; 100 images tell 80 % from 90 %.
_MIN_ACCURACY, _MIN_HELD_OUT = 0.8, 100


@dataclass(frozen=True)
class Row:
    """One line of the report. `steps` and `guidance_scale` are None for images not sampled."""

    images: str
    steps: int | None
    guidance_scale: float | None
    accuracy: float | None  # None where no class was asked for
    frechet_distance: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Report:
    """A whole evaluation; `to_table` for people, `to_json` for machines."""

    samples: int
    seed: int
    eta: float
    sampler: str
    spacing: str
    classifier: str
    classifier_accuracy: float
    held_out: int  # real test images that the classifier was measured on
    caution: str | None  # why the classifier is not fit to judge; None where it is
    reconstruction_psnr: float
    rows: tuple[Row, ...]

    def to_json(self) -> str:
        """The report as a JSON object."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def to_table(self) -> str:
        """The report as a Markdown table; figures that are not fit to judge by have a star."""
        star = "" if self.caution is None else "*"
        lines = [
            "| images | steps | guidance | accuracy | Fréchet distance | precision | recall |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in self.rows:
            steps = "" if row.steps is None else str(row.steps)
            scale = "" if row.guidance_scale is None else f"{row.guidance_scale:g}"
            accuracy = "" if row.accuracy is None else f"{row.accuracy:.2%}{star}"
            lines.append(
                f"| {row.images} | {steps} | {scale} | {accuracy} | "
                f"{row.frechet_distance:.3f}{star} | {row.precision:.3f}{star} "
                f"| {row.recall:.3f}{star} |"
            )
        return "\n".join(lines)


def evaluate(
    model: LatentDiffusion,
    data: DataRecipe,
    data_dir: Path,
    *,
    samples: int,
    settings: Sequence[tuple[int, float]],
    seed: int = 0,
    cache: Path,
    **how: Unpack[Options],
) -> Iterator[Report]:
    """Measure a model; yields the report as it grows, one more (steps, guidance) at a time.

    The real set is a random sample of the test images, at most `samples` of them; generated images
    are equally many of each class. `how` are options of `LatentDiffusion.sample`, beside steps and
    guidance: `sampler`, `spacing`, `eta`.

    Raises:
        DataError: the data set is not there.
        ValueError: the model's classes are not the data set's, too few samples, or a step count
            that the model does not have.
    """
    both = load_both(data, data_dir)
    train, test = both.train, both.test
    if model.classes.names and model.classes.names != train.classes:
        raise ValueError(f"the model's classes are {model.classes.names}, not {train.classes}")
    if min(samples, len(test), len(train)) < _MIN_SAMPLES:
        raise ValueError(
            f"{samples} samples, {len(train)} training and {len(test)} test images; "
            f"at least {_MIN_SAMPLES} of each are needed"
        )
    for steps, _ in settings:  # refuses what cannot be drawn before anything is measured
        drawn = Sampling.of(model.schedule, 1.0, **{**how, "steps": steps})
    judge = train_judge(train, cache, model.device)
    _, answers = judge.measure(test.scaled())
    real, _ = judge.measure(_some(test, samples, "real")[0])
    accuracy = float((answers == test.labels).double().mean())

    images, labels = _some(train, samples, "floor")
    restored = _restore(model, images)
    quality = float(psnr(restored, images).mean())
    rows = [
        _row("real training images", judge, images, labels, real),
        _row("the same through the VAE", judge, restored, labels, real),
    ]
    asked = torch.arange(samples) % max(len(train.classes), 1)
    for steps, scale in settings:
        made = _sample(model, asked, samples, steps, scale, seed, how)
        wanted = asked if model.classes.names else None
        rows.append(_row("generated", judge, made, wanted, real, steps, scale))
        yield Report(
            samples,
            seed,
            drawn.eta,
            drawn.sampler,
            drawn.spacing,
            judge.digest,
            accuracy,
            len(test),
            caution(accuracy, len(test), len(train.classes)),
            quality,
            tuple(rows),
        )


def caution(accuracy: float, held_out: int, classes: int) -> str | None:
    """Why a classifier's features and answers say little; None where they can be relied on."""
    if classes < 2:
        return "with one class there is nothing for the classifier to learn"
    if held_out < _MIN_HELD_OUT:
        return f"{held_out} held-out images tell too little; at least {_MIN_HELD_OUT} are needed"
    if accuracy < _MIN_ACCURACY:
        return (
            f"the classifier is right on {accuracy:.0%} of the held-out images; "
            f"at least {_MIN_ACCURACY:.0%} are needed"
        )
    return None


def _row(
    name: str,
    judge: Judge,
    images: Tensor,
    labels: Tensor | None,
    real: Tensor,
    steps: int | None = None,
    scale: float | None = None,
) -> Row:
    features, answers = judge.measure(images)
    accuracy = None if labels is None else float((answers == labels).double().mean())
    distance = frechet_distance(features, real)
    return Row(name, steps, scale, accuracy, distance, *precision_recall(features, real))


def _some(images: Images, count: int, purpose: str) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(images), generator=generator(0, purpose, 0))[:count]
    return images.scaled(order), images.labels[order]


def _restore(model: LatentDiffusion, images: Tensor) -> Tensor:
    parts = [model.decode(model.encode(some)).clamp(-1, 1).cpu() for some in images.split(_CHUNK)]
    return torch.cat(parts)


def _sample(
    model: LatentDiffusion,
    asked: Tensor,
    samples: int,
    steps: int,
    scale: float,
    seed: int,
    how: Options,
) -> Tensor:
    parts = []
    name = f"{steps} steps, guidance {scale:g}"
    for first in tqdm(range(0, samples, _CHUNK), desc=name, leave=False, disable=None):
        labels = asked[first : first + _CHUNK].tolist() if model.classes.names else None
        count = min(_CHUNK, samples - first)
        seeds = [seed + first + i for i in range(count)]
        options: Options = {**how, "steps": steps, "guidance_scale": scale}
        made = model.sample(labels or [None] * count, seeds, **options)
        parts.append(made.cpu())
    return torch.cat(parts)
