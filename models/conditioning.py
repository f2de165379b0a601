"""What images are to show, as people ask for it: a class by name or index, or a prompt.

A class-conditional UNet of ours embeds K classes and one more row, the null class, which stands for
"no class": it makes classifier-free guidance possible. A model that takes prompts leads away from
the negative prompt, which may be empty, in its place. Standard library only.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from models.bounds import brief

MAX_GUIDANCE_SCALE = 30  # of a model's default; the same as a request's bound
MAX_CLASSES, MAX_CLASS_NAME = 65_536, 256  # names, and characters of one
MAX_PROMPT = 4096  # characters of a prompt, and of a negative one
_NO_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of surrogate pairs
_MOST_LISTED, _MOST_LETTERS = 24, 200  # names in a message, and their characters in total


def class_names(names: Iterable[object]) -> tuple[str, ...]:
    """Names as a model can have them: each one printable line, no two alike, in Unicode NFC.

    Raises:
        ValueError: they cannot be a model's; the message says what is allowed.
    """
    checked = []
    for name in names:
        text = unicodedata.normalize("NFC", name) if isinstance(name, str) else ""
        if not (text and text.strip() == text and text.isprintable()):
            raise ValueError(
                f"has {brief(name)}: a class name is one line that is not empty, of printable "
                "characters, with no space at either end"
            )
        if len(text) > MAX_CLASS_NAME:
            raise ValueError(f"has a name of {len(text)} characters; allowed: {MAX_CLASS_NAME}")
        checked.append(text)
    if len(checked) > MAX_CLASSES:
        raise ValueError(f"has {len(checked)} names; allowed: up to {MAX_CLASSES}")
    if len(set(checked)) != len(checked):
        raise ValueError("names a class twice")
    return tuple(checked)


@dataclass(frozen=True)
class Prompt:
    """What an image is to show in words, and what guidance leads away from.

    `clip_skip` is the number of the text encoder's last layers that are left out, as diffusers
    counts: 0 is the model's own layer, 1 the layer before.
    """

    text: str
    negative: str = ""
    clip_skip: int = 0


@dataclass(frozen=True)
class Condition:
    """What an image is to show: the class of this index, a prompt, or nothing in particular.

    It is one of them at most.
    """

    index: int | None = None
    prompt: Prompt | None = None


Cut = tuple[int, int]  # tokens of a prompt and of its negative prompt that did not fit
NOTHING_CUT: Cut = (0, 0)


@dataclass(frozen=True)
class Prompts:
    """What prompts a model takes.

    It reads `tokens` tokens, the mark at either end included, and cuts what does not fit. At most
    `clip_skip` of the text encoder's layers may be left out. `guides` says whether guidance has a
    negative prompt to lead away from; a network that guidance was distilled into has none.
    """

    fields: ClassVar[tuple[str, ...]] = ("prompt", "negative_prompt", "clip_skip")  # of a request

    tokens: int = 77
    clip_skip: int = 0
    guides: bool = True

    def scale(self, asked: float) -> float:
        """The guidance scale that is meant: up to 1 is none, as diffusers' pipelines take it."""
        return max(asked, 1.0)

    def guidable(self, condition: Condition) -> bool:
        """Whether guidance changes anything: it always leads away from some negative prompt."""
        return self.guides and condition.prompt is not None

    def knows(self, condition: Condition) -> bool:
        """Whether an image may be asked for with this condition."""
        prompt = condition.prompt
        return (
            condition.index is None
            and prompt is not None
            and 0 <= prompt.clip_skip <= self.clip_skip
            and all(
                len(text) <= MAX_PROMPT and not _NO_TEXT.search(text)
                for text in (prompt.text, prompt.negative)
            )
        )

    def unguided(self, condition: Condition) -> Condition:
        """The condition that makes the same image where nothing is guided: no negative prompt."""
        prompt = condition.prompt
        if prompt is None or not prompt.negative:
            return condition
        return Condition(prompt=Prompt(prompt.text, clip_skip=prompt.clip_skip))

    def caption(self, condition: Condition) -> str:
        """The prompt."""
        return condition.prompt.text if condition.prompt else ""

    def describe(self) -> str:
        """How an image is asked for, in words."""
        return f"'prompt' instead of a class; prompt: a text of at most {MAX_PROMPT} characters"

    def cautions(self, cut: Cut) -> tuple[str, ...]:
        """What to tell those whose prompts were cut."""
        return tuple(
            f"{field}: cut after {self.tokens - 2} tokens; {count} more did not fit"
            for field, count in zip(self.fields, cut, strict=False)
            if count
        )


@dataclass(frozen=True)
class Classes:
    """The classes of one model.

    `names` in order of index and in Unicode NFC, empty for an unconditional model; `null` is the
    index of the null class, None where the model has none.
    """

    fields: ClassVar[tuple[str, ...]] = ("class",)  # of a request

    names: tuple[str, ...] = ()
    null: int | None = None

    @classmethod
    def of(cls, names: tuple[str, ...], embeddings: int | None) -> "Classes":
        """Match K names with the rows of the embedding: K, or K + 1 with the null class last.

        Raises:
            ValueError: any other number of names.
        """
        rows = embeddings or 0
        if len(names) not in ({rows, rows - 1} if rows else {0}):
            raise ValueError(f"{len(names)} class names for num_class_embeds {embeddings}")
        return cls(names, rows - 1 if len(names) == rows - 1 else None)

    @property
    def optional(self) -> bool:
        """Whether an image may be asked for without a class."""
        return not self.names or self.null is not None

    @property
    def guides(self) -> bool:
        """Whether guidance has something to lead away from: the null class."""
        return self.null is not None

    def scale(self, asked: float) -> float:
        """The guidance scale that is meant: 1 is none, and 0 draws no class."""
        return asked

    def guidable(self, condition: Condition) -> bool:
        """Whether guidance changes anything: there is a class, and a null class to lead from."""
        return condition.index is not None and self.null is not None

    def condition(self, label: str | int | None) -> Condition:
        """What a class given by name or by index, or None, asks for; raises as `index`."""
        return Condition(self.index(label))

    def knows(self, condition: Condition) -> bool:
        """Whether an image may be asked for with this condition."""
        if condition.prompt is not None:
            return False
        if condition.index is None:
            return self.optional
        return 0 <= condition.index < len(self.names)

    def unguided(self, condition: Condition) -> Condition:
        """The condition that makes the same image where nothing is guided: itself."""
        return condition

    def caption(self, condition: Condition) -> str:
        """The class's name, empty for no class."""
        return self.name(condition) or ""

    def name(self, condition: Condition) -> str | None:
        """The class's name; None for no class."""
        return None if condition.index is None else self.names[condition.index]

    def index(self, label: str | int | None) -> int | None:
        """The index of a class given by name, or by index; None stays None.

        Raises:
            ValueError: an unknown class, or none where the model needs one.
        """
        if label is None:
            if not self.optional:
                raise ValueError(f"this model needs a class; allowed: {self.allowed}")
            return None
        if isinstance(label, str):
            composed = unicodedata.normalize("NFC", label)
            if composed in self.names:
                return self.names.index(composed)
            number = label.isascii() and label.isdigit() and len(label) < 10
            position = int(label) if number else -1
        else:
            position = label
        if 0 <= position < len(self.names):
            return position
        raise ValueError(f"unknown class {brief(label)}; allowed: {self.allowed}")

    def describe(self) -> str:
        """How an image is asked for, in words."""
        return f"'class' instead of a prompt; class: {self.allowed}"

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        if not self.names:
            return "null (the model has no classes)"
        null = ", or null" if self.null is not None else ""
        return f"{self.listed}, an index from 0 to {len(self.names) - 1}{null}"

    @property
    def listed(self) -> str:
        """The names, or as many of them as a message has room for."""
        first = self.names[:_MOST_LISTED]
        while len(first) > 1 and sum(map(len, first)) > _MOST_LETTERS:
            first = first[:-1]
        return ", ".join(first) + (", ..." if len(first) < len(self.names) else "")
