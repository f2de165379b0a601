"""Names and shapes of stored tensors, from which configurations are read."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from models.bounds import brief
from models.tensor_file import Part


class Shapes(dict[str, tuple[int, ...]]):
    """The shapes of one component by name, without the prefix that its names have in the file."""

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], prefix: str) -> None:
        super().__init__(shapes)
        self.prefix = prefix


class Source(NamedTuple):
    """The stored tensor that one of a network is made of, and how."""

    name: str
    part: Part = Part()
    transposed: bool = False


def unique(pairs: Iterable[tuple[str, Source]]) -> dict[str, Source]:
    """Names -> stored tensors; raises `ValueError` for a name that two would have."""
    names: dict[str, Source] = {}
    for name, source in pairs:
        if name in names:
            both = f"{brief(names[name].name)} and {brief(source.name)}"
            raise ValueError(f"tensor {brief(name)} comes twice, as {both}")
        names[name] = source
    return names


def side(shapes: Shapes, name: str, axis: int) -> int:
    """How long a tensor is along an axis; raises `ValueError` if there is none such."""
    shape = shapes.get(name)
    if shape is None:
        raise ValueError(f"missing tensor {shapes.prefix + name!r}")
    if len(shape) <= axis or shape[axis] < 1:
        found = brief(list(shape))
        raise ValueError(f"tensor {shapes.prefix + name!r} has shape {found}, which cannot be")
    return shape[axis]


def count(shapes: Iterable[str], before: str) -> int:
    """How many numbered parts follow a name: 1 more than the highest number."""
    found = {name[len(before) :].partition(".")[0] for name in shapes if name.startswith(before)}
    numbers = [int(text) for text in found if text.isdecimal() and text.isascii() and len(text) < 4]
    return max(numbers, default=-1) + 1


def heads(width: int) -> int:
    """Heads of 64 channels, as all families but 1.x have them; a narrower layer has one."""
    return max(1, width // 64)
