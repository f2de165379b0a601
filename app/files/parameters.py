"""How an image was made, in words: for the metadata of its file, and for its name."""

import json
import re

from app.engine.job import SamplingParams
from app.engine.model_info import ModelInfo
from models.sampling import DEFAULT_SPACING, SAMPLERS

# Possessive: whatever fails, fails without trying again, so reading takes linear time.
_QUOTED = re.compile(r'\s*+("(?:[^"\\]|\\.)*+")(?:,|$)')
_NO_NAME = re.compile(r"[^\w ]")
_NO_STEM = re.compile(r"[^A-Za-z0-9._]+")
_SPECIAL = re.compile(r'[,:\n"]')


def file_stem(params: SamplingParams, image: int, info: ModelInfo) -> str:
    """A name for the file of image 0..n-1, without its extension: model, class and seed."""
    label = info.classes.name(params.condition) or "any"
    name = f"{info.name}-{label}-{params.seed_of(image)}"
    return _NO_STEM.sub("-", name).strip("-.")


def describe(params: SamplingParams, image: int, info: ModelInfo) -> str:
    """The parameters of one image as AUTOMATIC1111 writes them, which image tools read.

    One line of prompt (the class, here), then `Name: value` pairs. Numbers are exact, so that the
    image can be made again from its own description.
    """
    pairs = {
        "Steps": params.steps,
        "Sampler": SAMPLERS[params.sampler].title,
        "CFG scale": number(params.guidance_scale),
        "Seed": params.seed_of(image),
        "Size": f"{params.width}x{params.height}",
        "Model hash": info.hash,
        "Model": info.name,
        "Eta": number(params.eta),
    }
    if params.spacing != DEFAULT_SPACING:
        pairs["Schedule type"] = params.spacing.capitalize()
    if params.guidance_interval != (0, 1):
        start, end = params.guidance_interval
        pairs["Guidance interval"] = f"{number(start)}-{number(end)}"
    name = info.classes.name(params.condition) or ""
    return f"{name}\n" + ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items())


def number(value: float) -> str:
    """A number in as few characters as say it exactly."""
    return str(int(value)) if value == int(value) else repr(value)


def read_description(text: str) -> tuple[str, dict[str, str]]:
    """What `describe` wrote: the first lines, and the pairs of the last. Takes linear time."""
    prompt, _, last = text.rstrip("\n").rpartition("\n")
    pairs, at = {}, 0
    while (colon := last.find(":", at)) >= 0:
        name = _NO_NAME.split(last[at:colon])[-1].strip()
        at = colon + 1
        if name:
            pairs[name], at = _value(last, at)
    return prompt, pairs


def _value(line: str, start: int) -> tuple[str, int]:
    """The value of a pair, and where the next pair begins."""
    if quoted := _QUOTED.match(line, start):
        text, end = quoted[1], quoted.end()
    else:
        comma = line.find(",", start)
        end = len(line) if comma < 0 else comma + 1
        text = line[start:end].removesuffix(",").strip()
    if not text.startswith('"'):
        return text, end
    try:
        return str(json.loads(text)), end
    except ValueError:
        return text.strip('"'), end


def _quoted(value: object) -> str:
    text = str(value)
    plain = text == text.strip() and not _SPECIAL.search(text)
    return text if plain else json.dumps(text, ensure_ascii=False)
