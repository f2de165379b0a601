"""The models that ship, and how a name or a path becomes a folder. Standard library only."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

from models.bounds import brief
from models.files import CheckpointError

WEIGHTS = Path(__file__).parent / "weights"
_LONGEST_NAME = 100  # characters of a name that a user gives; a file system allows 255
_RUN = "model"  # the folder that training writes into each run


class Located(NamedTuple):
    """A model folder, and what the model is called."""

    name: str
    folder: Path


def shipped() -> dict[str, Path]:
    """Name -> folder of every model in the repository."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("*/model_index.json"))}


def locate(text: str) -> Located:
    """A model by its shipped name, by the path of its folder, or by `name=` and one of these.

    A folder is called by the last part of its path as it was given. `runs/shoes/model` is called
    `shoes`, and a snapshot in the cache of huggingface_hub is called by its repository.

    Raises:
        CheckpointError: none of these; the message lists what ships. Or a name or a path that is
            not printable: names are written into messages, headers and files.
    """
    known = shipped()
    if text in known:
        return Located(text, known[text])
    if folder := _folder(text):
        return Located(_name_of(text), folder)
    name, equals, rest = text.partition("=")
    if equals and (folder := known.get(rest) or _folder(rest)):
        plain = name.isprintable() and name == name.strip() and not {"/", "\\"} & {*name}
        if not (plain and 0 < len(name) <= _LONGEST_NAME):
            raise CheckpointError(
                f"a model is called {brief(name)}; allowed: 1 to {_LONGEST_NAME} printable "
                "characters without / and \\"
            )
        return Located(name, folder)
    asked, listed = rest if equals else text, ", ".join(known) or "none"
    raise CheckpointError(
        f"no model {brief(asked)}; shipped: {listed}; or a path to a model folder, or name=path"
    )


def find(text: str) -> Path:
    """The folder of a model; see `locate`."""
    return locate(text).folder


def split(text: str) -> tuple[str, ...]:
    """Several models in one text: a JSON list, or comma-separated; each is for `locate`.

    A comma that belongs to a path parts nothing: the longest text that names a folder is taken.

    Raises:
        ValueError: it begins with `[`, and is neither a JSON list of texts nor a folder.
    """
    if text.lstrip().startswith("[") and not _is_one(text):
        return _listed(text)
    parts, models = text.split(","), []
    while parts:
        sizes = range(len(parts), 1, -1)
        size = next((size for size in sizes if _is_one(",".join(parts[:size]))), 1)
        models.append(",".join(parts[:size]).strip())
        parts = parts[size:]
    return tuple(model for model in models if model)


def _listed(text: str) -> tuple[str, ...]:
    try:
        models = json.loads(text)
    except (ValueError, RecursionError):
        models = None
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        raise ValueError(f'{brief(text)} is no JSON list of texts; allowed: ["digits", "a/path"]')
    return tuple(models)


def _is_one(text: str) -> bool:
    """Whether a text with commas is the path of a folder, with or without a name before it."""
    name, _, rest = text.strip().partition("=")
    return _folder(text.strip()) is not None or ("," not in name and _folder(rest) is not None)


def _folder(text: str) -> Path | None:
    """The folder at a path, with links followed; None if there is none."""
    with contextlib.suppress(OSError, RuntimeError):  # too long, or an unknown user's home
        path = Path(text).expanduser()
        if text and path.is_dir():
            return _printable(path.resolve())
    return None


def _name_of(text: str) -> str:
    """The name of the model in the folder at a path."""
    path = Path(text).expanduser()
    path = _printable(path.resolve() if ".." in path.parts else path.absolute())
    repository = path.parents[1].name if path.parent.name == "snapshots" else ""
    if repository.startswith("models--"):  # models--owner--name/snapshots/commit
        return repository.rpartition("--")[2]
    name = path.parent.name if path.name == _RUN else path.name
    return name or _RUN


def _printable(path: Path) -> Path:
    if not str(path).isprintable():
        raise CheckpointError(f"model {brief(str(path))}: its path is not printable UTF-8")
    return path
