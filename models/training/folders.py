"""A folder of pictures: which files are pictures, of what class, and which of them are held out.

Sub-folders are classes. `train` beside `test`, `val` or `valid`, with the classes inside, is a
split; where there is none, one picture in ten, chosen by its name, is held out.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.conditioning import class_names
from models.training.decoding import SUFFIXES, readable
from models.training.images import DataError, listed

Picture = tuple[Path, int]  # and the index of its class
_SPLIT_NAME = re.compile(
    r"(?:(?P<train>train|training)|(?P<test>test|testing)"
    r"|(?P<validation>val|valid|validation|dev|eval|evaluation))"
    r"(?:[ _-]?(?:set|split|data|images))?"
)
# Folders that tools leave behind, pictures inside; also those that begin with a dot or with "__".
_LEFTOVERS = {"@eadir", "$recycle.bin", "system volume information", "lost+found"}


@dataclass(frozen=True)
class Listing:
    """What lies in a folder: pictures to train on and held out, in order of class, then of path.

    `root` holds the folders of the classes that are trained on. `test` is empty where the folder
    has no split. `passed_over` are paths relative to the folder.
    """

    root: Path
    classes: tuple[str, ...]
    train: list[Picture]
    test: list[Picture]
    passed_over: list[str]


def scan(folder: Path) -> Listing:
    """List a data set; no picture is opened.

    Raises:
        DataError: no class, a class without pictures to train on, names that no model can have, or
            folders that are a split in part.
    """
    walk = _Walk(folder)
    splits = walk.splits()
    root = splits.get("train", folder)
    classes = walk.classes(root)
    train = walk.pictures(classes)
    check_trained(root, tuple(classes), train)
    test = walk.held_out(splits, classes)
    return Listing(root, tuple(classes), train, test, list(walk.passed_over))


def check_trained(root: Path, classes: Sequence[str], train: Sequence[Picture]) -> None:
    """Raise `DataError` where a class has no pictures, or there is no class."""
    types = f"types: {', '.join(readable())}"
    if not classes:
        raise DataError(f"{root}: no sub-folders of images, one for each class; {types}")
    present = {label for _, label in train}
    empty = [str(root / name) for label, name in enumerate(classes) if label not in present]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise DataError(f"{', '.join(empty[:5])}{more}: no images to train on; {types}")


def held_out(path: Path) -> bool:
    """Whether an image, by its path inside the data set, is one of the tenth kept for testing."""
    return _digest(path)[0] < 26


def hold_out(root: Path, pictures: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Part pictures into those to train on and the held-out tenth.

    At least one is held out, and never all of a class.

    Raises:
        DataError: no class has two.
    """
    digests = {path: _digest(path.relative_to(root)) for path, _ in pictures}
    groups: dict[int, list[Path]] = {}
    for path, label in sorted(pictures, key=lambda picture: digests[picture[0]]):
        groups.setdefault(label, []).append(path)
    test = {path for path, _ in pictures if held_out(path.relative_to(root))}
    test -= {paths[-1] for paths in groups.values()}
    if not test:
        spare = [path for paths in groups.values() for path in paths[:-1]]
        if not spare:
            raise DataError(
                f"{root}: no class has two images, so none can be held out; "
                "add images, or train/ and test/ with the classes inside"
            )
        test = {min(spare, key=digests.__getitem__)}
    kept = [picture for picture in pictures if picture[0] not in test]
    return kept, [picture for picture in pictures if picture[0] in test]


def _digest(path: Path) -> bytes:
    """Of a path's name in Unicode NFC, so that it is the same on every file system."""
    name = unicodedata.normalize("NFC", path.as_posix())
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


class _Walk:
    """Reads the folders of one data set, and notes what it passes over."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.passed_over: dict[str, None] = {}  # in the order they were met, each once

    def splits(self) -> dict[str, Path]:
        """The folders that are a split, by `train`, `test`, `validation`; empty if there is none.

        A folder is one by its name, if it holds folders: those are the classes.
        """
        splits: dict[str, Path] = {}
        folders = self._folders(self._root)
        for path in folders:
            kind = _split_kind(path)
            if kind is None or not _sub_folders(path):
                continue
            if kind in splits:
                raise DataError(f"{path}: {splits[kind].name} is a split of the same kind")
            splits[kind] = path
        rest = [path for path in folders if path not in splits.values()]
        kinds = [_split_kind(path) for path in rest]
        if splits:
            self._check_beside(splits, rest)
        elif rest and (None not in kinds or ("train" in kinds and len({*kinds} - {None}) > 1)):
            named = listed([path.name for path, kind in zip(rest, kinds, strict=True) if kind])
            raise DataError(f"{self._root}: {named} must hold one folder of images for each class")
        return splits

    def _check_beside(self, splits: dict[str, Path], rest: Sequence[Path]) -> None:
        named = listed([path.name for path in splits.values()])
        for path in rest:
            if _split_kind(path) is None and self.pictures({"": path}):
                raise DataError(
                    f"{self._root}: {named} holds classes, so it is a split; {path.name} beside "
                    "it is none: put it inside, or give it another place"
                )
            self._pass_over(path)
        if "train" not in splits:
            raise DataError(
                f"{self._root}: {named} but no train; allowed: train/ with the classes inside"
            )

    def classes(self, root: Path) -> dict[str, Path]:
        """The folders of the classes, by name in Unicode NFC and in its order."""
        folders = self._folders(root)
        for path in folders:
            inner = {_split_kind(inside): inside.name for inside in _sub_folders(path)}
            if "train" in inner and len(inner.keys() - {None}) > 1:
                raise DataError(
                    f"{path}: holds {inner['train']}, a split; allowed: train/{path.name}, "
                    "or this folder as the source"
                )
        named = [unicodedata.normalize("NFC", path.name) for path in folders]
        if twice := [name for name, count in Counter(named).items() if count > 1]:
            raise DataError(
                f"{root}: {listed(twice)}: two folders have names that are one in Unicode NFC"
            )
        try:
            class_names(sorted(named))
        except ValueError as error:
            raise DataError(f"{root}: its classes' names: {error}") from error
        return dict(sorted(zip(named, folders, strict=True)))

    def held_out(self, splits: dict[str, Path], classes: dict[str, Path]) -> list[Picture]:
        """The pictures of `test`, or of `validation` where there is no `test` with classes."""
        found: list[Picture] = []
        for kind in ("test", "validation"):
            if kind not in splits:
                continue
            if found:
                self._pass_over(splits[kind])
                continue
            held = self.classes(splits[kind])
            if held.keys() != classes.keys():
                differing = sorted(held.keys() ^ classes.keys())
                raise DataError(
                    f"{self._root}: {splits['train'].name} and {splits[kind].name} hold different "
                    f"classes: {listed(differing)} in one alone"
                )
            found = self.pictures(held)
        return found

    def pictures(self, classes: dict[str, Path]) -> list[Picture]:
        """All pictures in the classes' folders, with the index of the class."""
        return [(path, i) for i, folder in enumerate(classes.values()) for path in self._in(folder)]

    def _in(self, folder: Path) -> Iterator[Path]:
        for path in sorted(folder.iterdir()):
            if _is_leftover(path) or (path.is_dir() and path.is_symlink()):
                self._pass_over(path)
            elif path.is_dir():
                yield from self._in(path)
            elif path.suffix.lower() in SUFFIXES and (path.is_file() or not path.exists()):
                yield path
            else:
                self._pass_over(path)

    def _folders(self, folder: Path) -> list[Path]:
        found = _sub_folders(folder)
        for path in sorted({*folder.iterdir()}.difference(found)):
            self._pass_over(path)
        return found

    def _pass_over(self, path: Path) -> None:
        self.passed_over[path.relative_to(self._root).as_posix() + "/" * path.is_dir()] = None


def _sub_folders(folder: Path) -> list[Path]:
    found = (path for path in folder.iterdir() if path.is_dir() and not _is_leftover(path))
    return sorted(found)


def _is_leftover(path: Path) -> bool:
    """Whether a tool left it behind: `._1.png`, `.ipynb_checkpoints`, `__MACOSX`."""
    name = path.name.casefold()
    return name.startswith(".") or (path.is_dir() and (name.startswith("__") or name in _LEFTOVERS))


def _split_kind(path: Path) -> str | None:
    """`train`, `test` or `validation` for a folder with such a name, in any case."""
    match = _SPLIT_NAME.fullmatch(unicodedata.normalize("NFC", path.name).casefold())
    return match.lastgroup if match else None
