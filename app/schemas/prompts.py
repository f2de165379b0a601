"""What a prompt means to a model: what it says, or the class that it names."""

import functools
import re
import unicodedata
from collections.abc import Mapping

from app.engine.model_info import ModelInfo
from app.errors import InvalidRequest
from models.bounds import brief
from models.conditioning import MAX_PROMPT

_TOLD = 4  # classes that an ambiguous prompt names


def subject_of(prompt: str, info: ModelInfo, field: str = "prompt") -> tuple[str, str | None]:
    """The field of a native request that a prompt becomes, and its value; raises as `class_of`."""
    if info.prompts is not None:
        return "prompt", prompt
    return "class", class_of(prompt, info, field)


def class_of(prompt: str, info: ModelInfo, field: str = "prompt") -> str | None:
    """The class a prompt names: "7" and "a red apple" do, where "7" and "apple red" are classes.

    The prompt is the class's name, or has all of its words; of several classes, the one with most
    words wins. An empty prompt means no class, and so does any prompt if the model has no classes.

    Raises:
        InvalidRequest: it names none or more than one, or none may be left out, or it has more than
            4096 characters; `field` is wrong.
    """
    if len(prompt) > MAX_PROMPT:
        raise InvalidRequest({field: f"must have at most {MAX_PROMPT} characters"})
    prompt = unicodedata.normalize("NFC", prompt)  # as names of classes are
    bare = prompt.strip().casefold()
    if not info.classes.names or (not bare and info.classes.optional):
        return None
    whole = [name for name in info.classes.names if name.casefold() == bare]
    if len(whole) == 1:
        return whole[0]
    words, named = _words(prompt), _names(info.classes.names)
    found = [name for name, needed in named.items() if needed and needed <= words]
    # "red apple" says all that "apple" does, and more. What others say more than has fewer words.
    best: list[str] = []
    for name in sorted(found, key=lambda name: -len(named[name])):
        if not any(named[name] < named[other] for other in best):
            best.append(name)
        if len(best) == _TOLD:
            break
    if len(best) == 1:
        return best[0]
    said = "names none of the classes" if not best else f"names more than one class: {brief(best)}"
    raise InvalidRequest({field: f"{said}; allowed: {allowed_prompt(info)}"})


def allowed_prompt(info: ModelInfo | None) -> str:
    """What a prompt may be, in words."""
    if info is None or not info.classes.names:
        return f"a text of at most {MAX_PROMPT} characters"
    return f"a text that names one of: {info.classes.listed}"


def asked_of(model: object, models: Mapping[str, ModelInfo]) -> ModelInfo | None:
    """The model that a wrong request means: the one of this name, or the first there is."""
    named = models.get(model) if isinstance(model, str) else None
    return named or next(iter(models.values()), None)


@functools.lru_cache(maxsize=16)
def _names(classes: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """The words of every class."""
    return {name: _words(name) for name in classes}


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))
