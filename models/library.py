"""The models that ship, and how a name or a path becomes a model. Standard library only."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

from models.bounds import brief
from models.files import CheckpointError
from models.hub import SCHEME, Repository, Tell, fetch, log, why_not
from models.weight_names import SAFETENSORS, is_pickle, refusal

WEIGHTS = Path(__file__).parent / "weights"
_LONGEST_NAME = 100  # characters of a name that a user gives; a file system allows 255
_RUN = "model"  # the folder that training writes into each run
_FORMS = (
    "a path to a model folder or to a .safetensors file, or owner/name of the Hugging Face hub, "
    "or name=path"
)


class Located(NamedTuple):
    """What a model is called, and where it is: a folder, a `.safetensors` file, or the hub."""

    name: str
    place: Path | Repository

    def fetched(self, tell: Tell = log.warning) -> Path:
        """The folder or the file, fetched first if it is on the hub; see `models.hub.fetch`."""
        return self.place if isinstance(self.place, Path) else fetch(self.place, tell)


def shipped() -> dict[str, Path]:
    """Name -> folder of every model in the repository."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("*/model_index.json"))}


def locate(text: str) -> Located:
    """A model by its shipped name, its path or its name on the hub, or by `name=` and one of these.

    A shipped name goes before a path, and a path that exists before a name on the hub, which is
    `owner/name` or `owner/name@revision`. `./name` is always a path, `hf://owner/name` never.
    Nothing is fetched.

    A folder is called by the last part of its path as it was given. `runs/shoes/model` is called
    `shoes`, and a snapshot in the cache of huggingface_hub is called by its repository, as is what
    is on the hub. A file is called by its name without `.safetensors`.

    Raises:
        CheckpointError: none of these; the message lists what ships. Or a name or a path that is
            not printable: names are written into messages, headers and files.
    """
    if found := _located(text):
        return found
    name, equals, rest = text.partition("=")
    if equals and (found := _located(rest)):
        plain = name.isprintable() and name == name.strip() and not {"/", "\\"} & {*name}
        if not (plain and 0 < len(name) <= _LONGEST_NAME):
            raise CheckpointError(
                f"a model is called {brief(name)}; allowed: 1 to {_LONGEST_NAME} printable "
                "characters without / and \\"
            )
        return Located(name, found.place)
    asked, listed = rest if equals else text, ", ".join(shipped()) or "none"
    raise CheckpointError(f"no model {brief(asked)}; shipped: {listed}; or {_FORMS}")


def find(text: str, tell: Tell = log.warning) -> Path:
    """The folder or the file of a model, fetched first if it is on the hub.

    Raises:
        CheckpointError: as `locate`, or as `models.hub.fetch`.
    """
    return locate(text).fetched(tell)


def split(text: str) -> tuple[str, ...]:
    """Several models in one text: a JSON list, or comma-separated; each is for `locate`.

    A comma that belongs to a path parts nothing: the longest text that names a path is taken.

    Raises:
        ValueError: it begins with `[`, and is neither a JSON list of texts nor a path.
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
    """Whether a text with commas is a path, with or without a name before it."""
    name, _, rest = text.strip().partition("=")
    return _path(text.strip()) is not None or ("," not in name and _path(rest) is not None)


def _located(text: str) -> Located | None:
    """A model by one text without `name=`; None if there is none."""
    if folder := shipped().get(text):
        return Located(text, folder)
    if not text.startswith(SCHEME) and (path := _path(text)):
        return Located(_name_of(text), path)
    if repository := Repository.parse(text):
        if reason := why_not():
            raise CheckpointError(
                f"no model {brief(text)} here; fetching it from the Hugging Face hub needs {reason}"
            )
        return Located(repository.name, repository)
    return None


def _path(text: str) -> Path | None:
    """The folder or the file at a path, with the links to its folder followed; None if none is.

    A link to a file keeps its name: in a cache of huggingface_hub, files are called by their hash.
    """
    with contextlib.suppress(OSError, RuntimeError):  # too long, or an unknown user's home
        path = Path(text).expanduser()
        if text and path.is_dir():
            return _printable(path.resolve())
        if text and path.is_file():
            _check_file(path)
            return _printable(path.parent.resolve() / path.name)
    return None


def _check_file(path: Path) -> None:
    """Raise `CheckpointError` unless a file may be a model."""
    if path.suffix == SAFETENSORS:
        return
    why = f": {refusal(path.name, path.stem + SAFETENSORS)}" if is_pickle(path.name) else ""
    raise CheckpointError(f"no model {brief(str(path))}: it is not a {SAFETENSORS} file{why}")


def _name_of(text: str) -> str:
    """The name of the model at a path."""
    path = Path(text).expanduser()
    path = _printable(path.resolve() if ".." in path.parts else path.absolute())
    if path.is_file():
        return path.stem
    repository = path.parents[1].name if path.parent.name == "snapshots" else ""
    if repository.startswith("models--"):  # models--owner--name/snapshots/commit
        return repository.rpartition("--")[2]
    name = path.parent.name if path.name == _RUN else path.name
    return name or _RUN


def _printable(path: Path) -> Path:
    if not str(path).isprintable():
        raise CheckpointError(f"model {brief(str(path))}: its path is not printable UTF-8")
    return path
