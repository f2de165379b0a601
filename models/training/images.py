"""Images in memory, as uint8: one split, and a data set of two."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Split = Literal["train", "test"]
_MOST_NAMED, _MOST_LETTERS = 5, 60  # files that the summary names, and characters of each


class DataError(ValueError):
    """A data set is not there or not what it should be; the message names the file."""


@dataclass(frozen=True)
class Images:
    """One split: `pixels` uint8 (N, C, size, size), `labels` int64 (N,), class names by index."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Pixels in [-1, 1], float32."""
        return self.pixels[indices].float() / 127.5 - 1


@dataclass(frozen=True)
class DataSet:
    """What a recipe trains on and what it holds out, and what was done to make it so.

    `passed_over` names the files that are no part of it; `changed` counts images by what was done
    to them.
    """

    train: Images
    test: Images
    passed_over: Sequence[str] = ()
    changed: Mapping[str, int] | None = None

    @property
    def summary(self) -> str:
        """One line: images, classes, held out, passed over, changed."""
        images = len(self.train) + len(self.test)
        counts = [counted(images, "image"), counted(len(self.train.classes), "class", "classes")]
        counts.append(f"{len(self.test)} held out")
        if self.passed_over:
            counts.append(f"{len(self.passed_over)} passed over: {listed(self.passed_over)}")
        changes = [f"{count} {what}" for what, count in (self.changed or {}).items()]
        return "; ".join([", ".join(counts), *changes])


def counted(count: int, one: str, more: str = "") -> str:
    """A number and its noun: `1 image`, `2 images`."""
    return f"{count} {one if count == 1 else more or one + 's'}"


def listed(names: Sequence[str], most: int = _MOST_NAMED) -> str:
    """The first of some names, as they can be shown in one line."""
    return ", ".join([*map(shown, names[:most]), *(["..."] if len(names) > most else [])])


def shown(name: str) -> str:
    """A file's name in one line of printable characters, whatever it has."""
    text = name if name.isprintable() else ascii(name)[1:-1]
    return text if len(text) <= _MOST_LETTERS else f"...{text[3 - _MOST_LETTERS :]}"
