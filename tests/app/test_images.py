"""Files: the very pixels where a format is lossless, and what is written beside them."""

import dataclasses
import io
import json
import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.engine.results import Pixels
from app.files.formats import (
    FORMATS,
    JPEG,
    PNG,
    SOURCE_TYPE,
    WEBP,
    Format,
    encode,
    open_image,
)
from app.files.parameters import describe, prompts_of, read_description
from models.conditioning import Classes, Condition, Prompt
from tests.fakes import INFO, TEXT, drawn

PARAMS = drawn("fake", 0, 20, 1.1, (0.25, 1.0), 0.3, 2**63 - 1, 2)


def noise(channels: int, width: int = 9, height: int = 7) -> Pixels:
    return Pixels(width, height, channels, random.Random(1).randbytes(width * height * channels))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", [PNG, WEBP], ids=lambda kind: kind.name)
def test_a_lossless_file_holds_the_very_pixels(kind: Format, channels: int) -> None:
    pixels = noise(channels)
    opened = open_image(encode(pixels, kind, "a\nb: c"))
    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    assert opened.image.convert(mode).tobytes() == pixels.data
    assert opened.lossless


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_quality_makes_files_smaller(channels: int) -> None:
    pixels = noise(channels, 64, 64)
    for kind in (JPEG, WEBP):
        sizes = [len(encode(pixels, kind, None, quality)) for quality in (5, 50, 90)]
        assert sizes == sorted(set(sizes))
        assert not open_image(encode(pixels, kind, None, 50)).lossless


@pytest.mark.parametrize("text", ["7\nSteps: 1, Seed: 2, Size: 1x1", "Übergröße \N{SNOWMAN}\nA: b"])
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_parameters_and_the_mark_are_read_back(kind: Format, text: str) -> None:
    content = encode(noise(3), kind, text)
    assert encode(noise(3), kind, text) == content, "the same bytes again"
    opened = open_image(content)
    assert opened.parameters == text
    xmp = opened.image.info["XML:com.adobe.xmp" if kind is PNG else "xmp"]
    assert f'DigitalSourceType="{SOURCE_TYPE}"' in str(xmp)
    assert open_image(encode(noise(3), kind)).parameters is None


def test_a_description_is_read_back_to_the_last_digit() -> None:
    odd = dataclasses.replace(INFO, name='a, "model": x')
    exact = dataclasses.replace(PARAMS, guidance_scale=1.1000000000000003, eta=1e-9)
    prompt, pairs = read_description(describe(exact, 1, odd))
    assert prompt == "a"
    assert pairs == {
        "Steps": "20",
        "Sampler": "DDIM",
        "CFG scale": "1.1000000000000003",
        "Seed": "0",
        "Size": "1x1",
        "Model hash": "0000000000",
        "Model": 'a, "model": x',
        "Eta": "1e-09",
        "Guidance interval": "0.25-1",
    }


def test_what_others_write_is_read_too() -> None:
    text = 'a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, Lora hashes: "x: 1, y: 2"'
    prompt, pairs = read_description(text)
    assert prompt == "a cat\nNegative prompt: dog"
    assert prompts_of(prompt) == ("a cat", "dog")
    assert pairs == {"Steps": "20", "Sampler": "Euler a", "Lora hashes": "x: 1, y: 2"}
    for nothing in ("", "\n", "no pairs", ":", ",,,"):
        read_description(nothing)


def test_what_is_no_picture_is_told() -> None:
    png = encode(noise(3), PNG)
    gif = io.BytesIO()
    Image.new("L", (2, 2)).save(gif, "GIF")
    for content in (b"", b"hello", png[:60], png[:-90], gif.getvalue()):
        with pytest.raises(ValueError, match=r"not a PNG, WebP or JPEG|damaged"):
            open_image(content)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(name=TEXTS, model=TEXTS, scale=st.floats(0, 20), start=st.floats(0, 1))
def test_any_class_and_any_model_are_read_back(
    name: str, model: str, scale: float, start: float
) -> None:
    odd = dataclasses.replace(INFO, classes=Classes((name, "b"), 2), name=model)
    exact = dataclasses.replace(PARAMS, guidance_scale=scale, guidance_interval=(start, 1.0))
    prompt, pairs = read_description(describe(exact, 0, odd))
    assert (prompt, pairs["Model"], float(pairs["CFG scale"])) == (name, model, scale)
    assert pairs["Seed"] == str(exact.seed_of(0))


PIECES = st.sampled_from(
    ["Negative prompt:", "\n", "\\", " ", '"', "a", ", ", "Steps: 1", "\r", "\t", "\u2028", "\x1c"]
)


@given(text=st.lists(PIECES).map("".join) | TEXTS, negative=st.lists(PIECES).map("".join) | TEXTS)
def test_any_prompts_are_read_back(text: str, negative: str) -> None:
    wanted = dataclasses.replace(PARAMS, condition=Condition(prompt=Prompt(text, negative, 1)))
    lines, pairs = read_description(describe(wanted, 0, TEXT))
    assert prompts_of(lines) == (text, negative)
    assert pairs["Clip skip"] == "2"


@given(name=st.lists(PIECES).map("".join))
def test_any_class_is_read_back_as_no_negative_prompt(name: str) -> None:
    odd = dataclasses.replace(INFO, classes=Classes((name, "b"), 2))
    lines, _ = read_description(describe(PARAMS, 0, odd))
    assert prompts_of(lines) == (name, "")


# How it was read before: right, and cubic in spaces.
PAIR = re.compile(r'\s*([\w ]+):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')


def as_before(text: str) -> tuple[str, dict[str, str]]:
    prompt, _, last = text.rstrip("\n").rpartition("\n")
    pairs = {}
    for found in PAIR.finditer(last):
        value = found[2].strip()
        if value.startswith('"'):
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value.strip('"')
        pairs[found[1].strip()] = value
    return prompt, pairs


def test_whatever_others_write_is_read_as_before() -> None:
    numbers = random.Random(1)
    for _ in range(20_000):
        text = "".join(numbers.choices('ab ,,::""\\-\n', k=numbers.randrange(24)))
        before = as_before(text)
        if "" not in before[1]:  # spaces alone were a name
            assert read_description(text) == before, repr(text)


@pytest.mark.parametrize(
    "unit",
    [
        "\n\\",
        "\nNegative prompt:",
        " ",
        "a",
        "a ",
        ":",
        "a:",
        ": ",
        'a:"',
        '"',
        "\\",
        'a:"\\',
        ",",
        "a:,",
        "a: \n",
        "\n",
    ],
)
def test_a_description_is_read_in_linear_time(unit: str) -> None:
    """A megabyte; before, three kilobytes of spaces took minutes, and a megabyte days."""
    for head in ("", "a: ", 'a: "'):
        read_description("x\n" + head + unit * (10**6 // len(unit)) + "x")
        prompts_of(head + unit * (10**6 // len(unit)) + "Negative prompt:")


def test_a_png_is_about_as_small_as_pillow_makes_one() -> None:
    """Of a smooth picture with some noise, as photographs are."""
    draw, size = random.Random(7), 96
    data = bytes(
        round(127 + 90 * math.sin(x / 9 + c) * math.cos(y / 13) + draw.uniform(-4, 4))
        for y in range(size)
        for x in range(size)
        for c in range(3)
    )
    usual = io.BytesIO()
    Image.frombytes("RGB", (size, size), data).save(usual, "PNG")
    assert len(encode(Pixels(size, size, 3, data), PNG)) < 1.05 * usual.tell()
