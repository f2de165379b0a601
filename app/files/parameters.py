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
_MARK = "Negative prompt:"  # begins the line where the negative prompt does
_MARKED = re.compile(rf"^\\*+(?={_MARK})", re.MULTILINE)
_ESCAPED = re.compile(rf"^\\(\\*+)(?={_MARK})", re.MULTILINE)
_NEGATIVE = re.compile(rf"(?:\A|\n){_MARK} ?")
_LONGEST_STEM = 80  # characters of a class or prompt in a file's name


def file_stem(params: SamplingParams, image: int, info: ModelInfo) -> str:
    """A name for the file of image 0..n-1, without its extension: model, subject and seed."""
    label = info.takes.caption(params.condition)[:_LONGEST_STEM] or "any"
    name = f"{info.name}-{label}-{params.seed_of(image)}"
    return _NO_STEM.sub("-", name).strip("-.")


def describe(params: SamplingParams, image: int, info: ModelInfo) -> str:
    """The parameters of one image as AUTOMATIC1111 writes them, which image tools read.

    The prompt (or the class), the negative prompt if there is one, then `Name: value` pairs in a
    line. All of it is exact, so that the image can be made again from its own description.
    """
    pairs: dict[str, object] = {
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
    negative = ""
    if prompt := params.condition.prompt:
        negative = prompt.negative and f"{_MARK} {_escaped(prompt.negative)}\n"
        if prompt.clip_skip:
            pairs["Clip skip"] = layers_of(prompt.clip_skip)
    told = ", ".join(f"{key}: {_quoted(value)}" for key, value in pairs.items())
    return f"{_escaped(info.takes.caption(params.condition))}\n{negative}{told}"


def layers_of(clip_skip: int) -> int:
    """A clip skip as AUTOMATIC1111 counts: the last layer is layer 1."""
    return clip_skip + 1


def clip_skip_of(layers: int) -> int:
    """A clip skip that AUTOMATIC1111 counts; 0 layers are as good as 1, as there."""
    return max(layers - 1, 0)


def number(value: float) -> str:
    """A number in as few characters as say it exactly."""
    return str(int(value)) if value == int(value) else repr(value)


def _escaped(text: str) -> str:
    """A text of which no line begins as the negative prompt's does."""
    return _MARKED.sub(r"\\\g<0>", text)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(r"\1", text)


def prompts_of(lines: str) -> tuple[str, str]:
    """The prompt and the negative prompt in the first lines of a description. In linear time."""
    if found := _NEGATIVE.search(lines):
        return _unescaped(lines[: found.start()]), _unescaped(lines[found.end() :])
    return _unescaped(lines), ""


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
