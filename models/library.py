"""The models that ship, and how a name becomes a folder. Standard library only."""

import contextlib
from pathlib import Path

from models.bounds import brief

WEIGHTS = Path(__file__).parent / "weights"


def shipped() -> dict[str, Path]:
    """Name -> folder of every model in the repository."""
    return {path.parent.name: path.parent for path in sorted(WEIGHTS.glob("*/model_index.json"))}


def find(name: str) -> Path:
    """The folder of a shipped model, or of a path to one.

    Raises:
        ValueError: neither; the message lists what ships. Or a folder whose path is not printable:
            names are written into messages, headers and files.
    """
    known = shipped()
    if name in known:
        return known[name]
    with contextlib.suppress(OSError, RuntimeError):  # a name too long, a home that is nobody's
        path = Path(name).expanduser()
        if path.is_dir():
            path = path.resolve()
            if not str(path).isprintable():
                raise ValueError(f"model {brief(str(path))}: its path is not printable UTF-8")
            return path
    listed = ", ".join(known) or "none"
    raise ValueError(f"no model {brief(name)}; shipped: {listed}; or a path to a model folder")
