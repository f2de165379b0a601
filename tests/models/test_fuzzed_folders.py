"""Folders changed at random: each opens and draws, or is refused in one short line."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from models.checkpoint import CheckpointError, open_checkpoint
from models.digests import checkpoint_digest
from models.pipeline import LatentDiffusion
from models.samplers import COLUMNS, trajectory
from models.sampling import SAMPLERS
from models.schedulers import _ALL_KEYS, _KINDS
from tests.models.hostile import INDEX, SCHEDULE, UNET, VAE, WEIGHTS

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("FUZZ_FOLDERS", "150"))
LITTLE = (0, 1, 2, 3, 4, 8, 16, 32, 0.5, 1.0, "", None, True, False, [], {}, [1], [8, 8], [16, 32])
LARGE = (-1, 1e-300, 1e308, float("nan"), float("inf"), 2**31, 2**63, 10**30, "x" * 10**5, [[]])
VALUES: tuple[Any, ...] = (*LITTLE, *LARGE)
WORDS = ("zero", "sigma_min", "midpoint", "heun", "bh1", "trailing", "leading", "linspace")


def other_value(draw: random.Random, path: Path) -> None:
    """Another value for one key, or for one item of a list."""
    values = json.loads(path.read_text())
    key = draw.choice(sorted(values))
    if isinstance(values[key], list) and values[key] and draw.random() < 0.5:
        values[key][draw.randrange(len(values[key]))] = draw.choice(VALUES)
    elif isinstance(values[key], int | float) and draw.random() < 0.5:
        values[key] = draw.choice((2, 3, 8, 10**4, 0.1, -1)) * values[key]
    else:
        values[key] = draw.choice(VALUES)
    path.write_text(json.dumps(values))


def other_bytes(draw: random.Random, path: Path) -> None:
    """A few bytes of the first 4,000 changed, taken away or put in twice."""
    data = bytearray(path.read_bytes())
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(min(len(data), 4000))
        kind = draw.randrange(4)
        if kind == 0:
            data[at] = draw.randrange(256)
        elif kind == 1:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 2:
            del data[at : at + draw.randint(1, 9)]
        else:
            data[at:at] = data[at : at + draw.randint(1, 99)]
    path.write_bytes(data)


def test_changed_at_random(tiny_folder: Path, tmp_path: Path) -> None:
    refused = 0
    for seed in range(ROUNDS):
        draw = random.Random(seed)
        folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
        for _ in range(draw.choice((1, 1, 2, 3))):
            file = draw.choice((INDEX, SCHEDULE, UNET, VAE, WEIGHTS))
            change = other_bytes if file == WEIGHTS or draw.random() < 0.4 else other_value
            try:
                change(draw, folder / file)
            except (ValueError, IndexError):  # what was changed before can be changed no more
                other_bytes(draw, folder / INDEX)
        try:
            model = LatentDiffusion.open(folder)
        except CheckpointError as error:
            refused += 1
            message = str(error).replace(str(folder), "")
            assert message.isprintable(), f"seed {seed}: {message!r}"
            assert len(message) <= 300, f"seed {seed}: {message}"
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {error}")
        else:
            checkpoint_digest(folder)
            label = 0 if model.classes.names else None
            steps = min(2, model.schedule.num_train_timesteps)
            assert model.denoise([label], [1], steps=steps).shape[0] == 1, f"seed {seed}"
        shutil.rmtree(folder)
    assert ROUNDS // 2 < refused < ROUNDS


def test_schedulers_of_every_class_changed_at_random(tiny_folder: Path, tmp_path: Path) -> None:
    """Keys of any class with any value: drawn by every sampler that it leaves, or refused."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    keys, kinds = sorted(_ALL_KEYS), sorted(_KINDS)
    refused = 0
    for seed in range(ROUNDS):
        draw = random.Random(seed)
        values: dict[str, Any] = {"_class_name": draw.choice(kinds), "skip_prk_steps": True}
        values["prediction_type"] = draw.choice(("epsilon", "v_prediction", "sample"))
        for key in draw.sample(keys, draw.choice((1, 1, 2, 4))):
            values[key] = draw.choice((*VALUES, *WORDS))
        (folder / SCHEDULE).write_text(json.dumps(values))
        try:
            checkpoint = open_checkpoint(folder)
        except CheckpointError as error:
            refused += 1
            message = str(error).replace(str(folder), "")
            assert message.isprintable(), f"seed {seed}: {message!r}"
            assert len(message) <= 300, f"seed {seed}: {message}"
            continue
        schedule = checkpoint.schedule
        assert schedule.sampler in schedule.samplers, f"seed {seed}"
        for sampler in schedule.samplers:
            spacing = SAMPLERS[sampler].spacing(schedule.spacing)
            steps = min(draw.choice((1, 2, 5, 40)), schedule.num_train_timesteps)
            way = trajectory(schedule, sampler, steps, spacing=spacing)
            numbers = way.coefficients.float()[:, [column != "clip" for column in COLUMNS]]
            assert numbers.isfinite().all(), f"seed {seed}: {sampler}"
    assert ROUNDS // 10 < refused < ROUNDS
