"""A folder of Stable Diffusion that was broken or made to hurt: the whole way in, as users go it.

What `darkroom models` says and what opening says agree: each is refused in one short line.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.description import Description, describe
from models.digests import checkpoint_digest
from models.files import CheckpointError
from models.pipeline import LatentDiffusion
from tests.models.hostile import (
    INDEX,
    SCHEDULE,
    SPECIAL,
    UNET,
    VAE,
    Damage,
    changed,
    contents,
    header,
    raw,
    special,
)
from tests.models.test_hostile import LONG, refusal

pytestmark = pytest.mark.slow

TEXT, TEXT_WEIGHTS = "text_encoder/config.json", "text_encoder/model.safetensors"
TOKENIZER = "tokenizer/tokenizer_config.json"
ROUNDS = 24
VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 1.5, 1e308, 2**31, 10**30, True, None, "", "1", "x" * 10**5, "a\0b", "\u202e"),
    *([], {}, [1], [None], [[[]]], [1] * 5000, {"a": 1}, ["os", "system"], float("nan")),
)


@pytest.fixture
def folder(stable_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy; its weights are links, to be replaced and not written to."""

    def copy(source: str, target: str) -> None:
        (os.link if source.endswith(".safetensors") else shutil.copy)(source, target)

    return Path(shutil.copytree(stable_folder("small-1.5"), tmp_path / "copy", copy_function=copy))


def replaced(file: str, data: bytes) -> Damage:
    return lambda folder: ((folder / file).unlink(), contents(file, data)(folder))  # type: ignore[func-returns-value]


def linked_out(folder: Path) -> None:
    (folder.parent / "outside").mkdir()
    (folder / TEXT).rename(folder.parent / "outside/config.json")
    (folder / TEXT).symlink_to(folder.parent / "outside/config.json")


BROKEN: dict[str, tuple[Damage, str]] = {
    "code": (changed(INDEX, text_encoder=["os", "system"]), f"/{INDEX}: text_encoder is 'system'"),
    "code of a tokenizer": (changed(TOKENIZER, auto_map={"a": "b.c"}), f"/{TOKENIZER}: auto_map"),
    "a class that is a list": (changed(TEXT, architectures=["os"]), f"/{TEXT}: architectures"),
    "a billion layers": (changed(TEXT, num_hidden_layers=10**9), f"/{TEXT}: num_hidden_layers"),
    "no heads": (changed(TEXT, num_attention_heads=0), f"/{TEXT}: num_attention_heads is 0"),
    "no heads of the UNet": (changed(UNET, attention_head_dim=0), f"/{UNET}: attention_head_dim"),
    "endless digits": (raw(TEXT, "vocab_size", "9" * 10_000), f"/{TEXT}: vocab_size is inf"),
    "an overflow": (raw(TEXT, "layer_norm_eps", "1e400"), f"/{TEXT}: layer_norm_eps is inf"),
    "brackets": (replaced(TEXT, b"[" * 100_000), f"/{TEXT}: not JSON: nested too deeply"),
    "a link out": (linked_out, f"/{TEXT}: a link leads out of its model folder"),
    "a gigabyte": (lambda folder: os.truncate(folder / TOKENIZER, 1 << 30), f"/{TOKENIZER}: has 1"),
    "a header of 2^60": (
        replaced(TEXT_WEIGHTS, (2**60).to_bytes(8, "little") + b"{}"),
        f"/{TEXT_WEIGHTS}: not a whole safetensors file: a header of 1,152,921,",
    ),
    "no tensors": (replaced(TEXT_WEIGHTS, header({})), "/text_encoder: missing tensor"),
    **{f"{TEXT} as {kind}": (special(TEXT, kind), f"/{TEXT}: ") for kind in SPECIAL},
    **{
        f"{TEXT_WEIGHTS} as {kind}": (special(TEXT_WEIGHTS, kind), f"/{TEXT_WEIGHTS}: ")
        for kind in ("a pipe", "/dev/zero", "a link to itself", "10 GB of nothing")
    },
}


def refusal_of(look: Callable[[Path], Description | LatentDiffusion], folder: Path) -> str:
    """Why a folder cannot be drawn by; empty if it can."""
    try:
        seen = look(folder)
    except CheckpointError as error:
        return str(error)
    return (isinstance(seen, Description) and seen.refusal) or ""


@pytest.mark.parametrize("kind", BROKEN)
def test_it_is_refused_in_one_line(folder: Path, kind: str) -> None:
    damage, expected = BROKEN[kind]
    damage(folder)
    told = refusal(folder)
    assert told.startswith(expected)
    described = refusal_of(describe, folder).replace(str(folder), "")
    # It reads headers without knowing how large a file may be.
    assert described == told or (kind.endswith("nothing") and described.startswith(expected))


def other_value(draw: random.Random, path: Path) -> None:
    values = json.loads(path.read_text())
    values[draw.choice(sorted(values))] = draw.choice(VALUES)
    path.write_text(json.dumps(values))


def test_changed_at_random(folder: Path) -> None:
    """It opens and draws, and is described as it opens; or neither."""
    files = (INDEX, SCHEDULE, UNET, VAE, TEXT, TOKENIZER)
    sound = {file: (folder / file).read_bytes() for file in files}
    refused = 0
    for seed in range(ROUNDS):
        draw = random.Random(seed)
        for file, content in sound.items():
            (folder / file).write_bytes(content)
        for _ in range(draw.choice((1, 1, 2))):
            other_value(draw, folder / draw.choice(files))
        described, opened = refusal_of(describe, folder), refusal_of(LatentDiffusion.open, folder)
        assert described == opened, f"seed {seed}"
        refused += bool(opened)
        if opened:
            message = opened.replace(str(folder), "")
            assert message.isprintable(), f"seed {seed}: {message!r}"
            assert len(message) <= LONG, f"seed {seed}: {message}"
        else:
            checkpoint_digest(folder)
            model = LatentDiffusion.open(folder)
            steps = min(2, model.schedule.num_train_timesteps)
            assert model.denoise(["a cat"], [1], steps=steps).shape[0] == 1, f"seed {seed}"
    assert 0 < refused < ROUNDS
