"""Reading files that others wrote: only regular files of bounded size. Standard library only."""

import json
import math
import os
import stat
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.bounds import brief

INDEX = "model_index.json"  # what makes a folder a model folder
MAX_JSON_BYTES = 4 << 20  # the names of 20,000 classes take 1 MiB, the index of 10,000 tensors too
_MAX_DIGITS = 100  # of a whole number; Python would refuse 4,301 and name no key
_POINTERS = (
    b"version https://git-lfs.github.com/spec/",
    b"version https://hawser.github.com/spec/",
)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


class CheckpointError(ValueError):
    """A model folder cannot be opened; the message names the file and the key."""


def check_regular(path: Path, most: int) -> int:
    """The size in bytes of a regular file, at most `most`; a link counts as its target.

    To be called before a file is opened: a pipe would wait for a writer, a device may never end.

    Raises:
        CheckpointError: something else, or too large; or nothing is there, or it may not be seen.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else "no file can have this name"
        raise CheckpointError(f"{path}: cannot be read: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "of another kind")
        raise CheckpointError(f"{path}: is {kind}; a regular file is needed")
    if found.st_size > most:
        raise CheckpointError(f"{path}: has {found.st_size:,} bytes; allowed: up to {most:,}")
    return found.st_size


def check_inside(path: Path) -> None:
    """Raise `CheckpointError` for a file of a model folder that links lead to from outside of it.

    A link may lead to another file of the same model folder, or from a snapshot in the cache of
    huggingface_hub to the blobs of its repository, or those of the whole cache. A model folder has
    a `model_index.json`; a component's folder that is in none stands for itself.
    """
    above = (path.parent, path.parent.parent)
    folder = next((folder for folder in above if (folder / INDEX).exists()), path.parent)
    root, target = Path(os.path.realpath(folder)), Path(os.path.realpath(path))
    if not any(target.is_relative_to(place) for place in (root, *_blobs(root))):
        raise CheckpointError(
            f"{path}: a link leads out of its model folder; allowed: links within it, or from a "
            "snapshot to the blobs of its repository, as in the cache of huggingface_hub"
        )


def _blobs(folder: Path) -> list[Path]:
    """The blobs of the repository that a folder is a snapshot of, or is in one.

    These may be links in their turn, to the blobs that all repositories of a cache share.
    """
    return [
        place / "blobs"
        for snapshot in (folder, *folder.parents)
        if snapshot.parent.name == "snapshots" and snapshot.parents[1].name.startswith("models--")
        for place in snapshot.parents[1:3]
    ]


def check_fetched(path: Path, start: bytes) -> None:
    """Raise `CheckpointError` if a file is a pointer that Git LFS left in its place.

    Source: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
    """
    if start.startswith(_POINTERS):
        raise CheckpointError(
            f"{path}: is a Git LFS pointer, not the file itself; fetch that with `git lfs pull`"
        )


def read_bytes(path: Path, most: int) -> bytes:
    """The whole of a regular file of a model folder, of at most `most` bytes.

    Raises:
        CheckpointError: the file is of another kind, too large, unreadable or outside the folder.
    """
    size = check_regular(path, most)
    check_inside(path)
    try:
        with path.open("rb") as file:  # no more than its size, in case it grows
            data = file.read(size)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    check_fetched(path, data)
    return data


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """A JSON object from a file of at most `most` bytes, UTF-8.

    Raises:
        CheckpointError: the file is of another kind, too large or unreadable, or holds no JSON, or
            JSON that is no object, or an object with a key twice.
    """
    data = read_bytes(path, most)
    try:
        return parse_object(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def parse_object(data: bytes) -> dict[str, Any]:
    """A JSON object, UTF-8.

    Raises:
        ValueError: no JSON, JSON that is no object, or an object with a key twice.
    """
    try:
        values = json.loads(data.decode("utf-8"), object_pairs_hook=_object, parse_int=_whole)
    except _Twice:
        raise
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("not JSON: nested too deeply") from error
    if not isinstance(values, dict):
        raise ValueError(f"a JSON object is needed, found {type(values).__name__}")
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object, keys in order, making folders that are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


class _Twice(ValueError):
    """Readers of JSON differ in which of two equal keys they take."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise _Twice(f"key {brief(twice)} comes twice")
    return values


def _whole(text: str) -> int | float:
    """A whole number; one that is too long for any key as infinity, which no key accepts."""
    if len(text) <= _MAX_DIGITS:
        return int(text)
    return -math.inf if text.startswith("-") else math.inf
