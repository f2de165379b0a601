"""The class that a prompt names, for models that are asked by class and clients that send text."""

import re

from app.engine.job import ModelInfo
from app.errors import InvalidRequest


def class_of(prompt: str, info: ModelInfo, field: str = "prompt") -> str | None:
    """The class a prompt names: "7" and "a red apple" do, where "7" and "apple red" are classes.

    The prompt is the class's name, or has all of its words; of several, the one with most words.
    An empty prompt is no class, and so is any prompt where the model has no classes.

    Raises:
        InvalidRequest: it names none or more than one, or none may be left out; `field` is wrong.
    """
    if not info.classes or (not prompt.strip() and info.class_optional):
        return None
    whole = [name for name in info.classes if name.casefold() == prompt.strip().casefold()]
    if len(whole) == 1:
        return whole[0]
    words = _words(prompt)
    named = {name: _words(name) for name in info.classes}
    found = [name for name, needed in named.items() if needed and needed <= words]
    # "red apple" says all that "apple" does, and more.
    best = [name for name in found if not any(named[name] < named[other] for other in found)]
    if len(best) == 1:
        return best[0]
    listed = ", ".join(info.classes[:24]) + (", ..." if len(info.classes) > 24 else "")
    said = "names none of the classes" if not best else f"names more than one class: {best[:4]}"
    raise InvalidRequest({field: f"{said}; allowed: a text that names one of: {listed}"})


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))
