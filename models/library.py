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
        ValueError: neither; the message lists what ships.
    """
    known = shipped()
    if name in known:
        return known[name]
    with contextlib.suppress(OSError, RuntimeError):  # a name too long, a home that is nobody's
        path = Path(name).expanduser()
        if path.is_dir():
            return path.resolve()
    listed = ", ".join(known) or "none"
    raise ValueError(f"no model {brief(name)}; shipped: {listed}; or a path to a model folder")
