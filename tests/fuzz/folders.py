"""Model folders that are nearly right, made from a seed."""

import json
import os
import random
import shutil
from pathlib import Path

from models.checkpoint import CheckpointError, open_checkpoint
from tests.fuzz.traffic import mutate

_NUMBERS: list[object] = [
    0,
    -1,
    1.5,
    1e308,
    10**6,
    10**9,
    10**30,
    True,
    None,
    "1",
    [],
    [10**6] * 3,
    [1] * 5000,
    {},
    "a" * 100_000,
    float("nan"),
    float("inf"),
]


def refusal(chance: random.Random, sound: Path, folder: Path) -> str:
    """Why a damaged copy of a sound folder does not open; empty where it does."""
    try:
        open_checkpoint(_damaged(chance, sound, folder))
    except CheckpointError as error:
        return str(error)
    return ""


def _damaged(chance: random.Random, sound: Path, folder: Path) -> Path:
    """A copy of a sound folder with one to three things wrong."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(sound, folder)
    for _ in range(chance.randint(1, 3)):
        whole = [p for p in folder.rglob("*") if p.is_file() and p.stat().st_size < 1 << 26]
        path = chance.choice(sorted(whole) or [folder])
        if path.suffix == ".json" and chance.random() < 0.7:
            _change_key(chance, path)
        else:
            _change_file(chance, path)
    return folder


def _change_key(chance: random.Random, path: Path) -> None:
    try:
        values = json.loads(path.read_bytes())
        key = chance.choice([*sorted(values), "unknown"])
    except (ValueError, TypeError, RecursionError):  # it was changed before
        return
    values[key] = chance.choice(_NUMBERS)
    path.write_text(json.dumps(values))


def _change_file(chance: random.Random, path: Path) -> None:
    if path.is_dir():
        return
    content = path.read_bytes()
    path.unlink()
    act = chance.randrange(7)
    if act == 0:
        path.symlink_to("/dev/zero")
    elif act == 1:
        os.mkfifo(path)
    elif act == 2:
        path.mkdir()
    elif act == 3:
        path.write_bytes(b"[" * 100_000)
    elif act == 4:
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif act == 5:
        with path.open("wb") as file:
            file.truncate(10 << 30)  # holes: they take no room
    else:
        path.write_bytes(mutate(chance, content))
