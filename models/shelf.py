"""Models in folders that are looked through again and again. Standard library only.

Each sub-folder with a `model_index.json` is a model, and so is each `.safetensors` file. What is
still being copied is no model yet: a file that is shorter than its header says, a folder of which
a component, or a part of its weights, is missing.
"""

import itertools
import json
import logging
import re
import struct
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.bounds import brief
from models.files import INDEX
from models.weight_names import PICKLES, SAFETENSORS

log = logging.getLogger(__name__)

_MOST = 4096  # entries of a folder that are looked at
_MOST_FILES = 512  # of a model folder
_LONGEST_NAME = 100  # characters, as of names that users give (library.py)
_LONGEST_HEADER = 100 << 20  # bytes; as safetensors itself allows
_NETWORKS = re.compile(r"unet|vae|vqvae|text_encoder(_\d)?")
_HEADER = struct.Struct("<Q")

Stamp = tuple[tuple[str, int, int, int], ...]  # by file: its name, inode, bytes and time


@dataclass(frozen=True)
class Shelved:
    """A model that was found: where it is, and what changes whenever it does."""

    place: Path
    stamp: Stamp


class Shelf:
    """Some folders, and what is in them.

    A model is called by its folder, or by its file without `.safetensors`. Where several have a
    name, `taken` goes first, then the folders in their order, then a sub-folder before a file.
    """

    def __init__(self, folders: Sequence[Path] = (), taken: Collection[str] = ()) -> None:
        self._folders, self._taken = tuple(dict.fromkeys(folders)), frozenset(taken)
        self._seen: dict[Path, tuple[Stamp, bool]] = {}  # what was looked into: is it whole
        self._told: dict[Path, str] = {}  # what was said of what is not served
        self._now: dict[Path, str] = {}  # the same, of this look

    def scan(self) -> Mapping[str, Shelved]:
        """The models by name. Only what is new or has changed is opened."""
        found: dict[str, Shelved] = {}
        seen: dict[Path, tuple[Stamp, bool]] = {}
        for name, path in itertools.chain.from_iterable(map(self._candidates, self._folders)):
            try:
                stamp = _stamp(path)
                known = self._seen.get(path)
                whole = known[1] if known and known[0] == stamp else _is_whole(path)
            except OSError as error:
                self._complain(path, error)
                continue
            seen[path] = stamp, whole
            if name in self._taken or name in found:
                self._tell(path, f"another model is called {name}")
            elif whole:
                found[name] = Shelved(path, stamp)
        self._seen, self._told, self._now = seen, self._now, {}
        return found

    def _candidates(self, folder: Path) -> Iterable[tuple[str, Path]]:
        """What may be a model, sub-folders first; without what is hidden or cannot be a name."""
        try:
            paths = sorted(itertools.islice(folder.iterdir(), _MOST + 1))
        except OSError as error:
            self._complain(folder, error)
            return ()
        if len(paths) > _MOST:
            self._tell(folder, f"it has more than {_MOST} entries; some of them are not looked at")
        folders = [(path.name, path) for path in paths if _is_file(path / INDEX)]
        files = [
            (path.stem, path) for path in paths if path.suffix == SAFETENSORS and _is_file(path)
        ]
        return [(name, path) for name, path in (*folders, *files) if _is_name(name)]

    def _complain(self, path: Path, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError) or path in self._folders:
            self._tell(path, error.strerror or type(error).__name__)

    def _tell(self, path: Path, why: str) -> None:
        """Say once why something is not served."""
        self._now[path] = why
        if self._told.get(path) != why:
            log.warning("%s is not served: %s", brief(str(path)), why)


def _is_name(name: str) -> bool:
    """Whether a model may be called so, as names that users give; hidden files are not meant."""
    plain = name.isprintable() and name == name.strip() and "\\" not in name
    return plain and not name.startswith(".") and 0 < len(name) <= _LONGEST_NAME


def _is_file(path: Path) -> bool:
    """Whether there is a file, as far as may be known."""
    try:
        return path.is_file()
    except OSError:  # in a folder that is closed to us
        return False


def _stamp(path: Path) -> Stamp:
    """What tells one state of a model's files from another."""
    files = [path]
    if path.is_dir():
        below = (file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.is_file())
        files = sorted(itertools.islice(below, _MOST_FILES))
    told = ((file, file.stat()) for file in files)
    return tuple((str(f), s.st_ino, s.st_size, s.st_mtime_ns) for f, s in told)


def _is_whole(path: Path) -> bool:
    """Whether nothing of a model is missing, as far as can be seen from outside."""
    return _is_whole_folder(path) if path.is_dir() else _is_whole_file(path)


def _is_whole_file(path: Path) -> bool:
    """Whether a file has all the bytes that its header names.

    A header that cannot be read is of a broken file, which is whole: its opening says what is
    wrong.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size:
            return False
        (length,) = _HEADER.unpack(start)
        if length > _LONGEST_HEADER:
            return True
        header = file.read(length)
    if len(header) < length:
        return False
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for name, entry in entries.items() if name[:2] != "__"]
        return bool(size >= _HEADER.size + length + max(ends, default=0))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        return True


def _is_whole_folder(path: Path) -> bool:
    """Whether every component is there, with its weights."""
    try:
        index = json.loads((path / INDEX).read_bytes())
    except (ValueError, RecursionError):
        return False  # half an index is no JSON
    if not isinstance(index, dict):
        return True
    listed = [name for name, value in index.items() if isinstance(value, list) and all(value)]
    components = [path / name for name in listed if _NETWORKS.fullmatch(name)]
    return all(_is_whole_component(component) for component in components)


def _is_whole_component(folder: Path) -> bool:
    """Whether a network has weights, and all of them."""
    names = {file.name for file in folder.iterdir() if file.is_file()} if folder.is_dir() else set()
    if not any(name.endswith((SAFETENSORS, *PICKLES)) for name in names):
        return False
    for name in names:
        if name.endswith(SAFETENSORS) and not _is_whole_file(folder / name):
            return False
        if name.endswith(f"{SAFETENSORS}.index.json") and _missing(folder / name, names):
            return False
    return True


def _missing(index: Path, names: Collection[str]) -> bool:
    """Whether one of the files that an index names is missing."""
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return not named <= set(names)
