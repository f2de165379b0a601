"""The settings that the playground finds in pictures, by what drew them."""

import base64
import io
import itertools
import random
from collections.abc import Iterator
from typing import Any

import pytest

from app.engine.job import SamplingParams
from app.engine.model_info import ModelInfo
from app.files.formats import JPEG, PNG, WEBP, encode
from app.files.parameters import describe
from app.schemas.requests import GenerateRequest
from app.schemas.status import SamplerOut, SizesOut
from models.conditioning import Condition, Prompt
from models.sampling import SAMPLERS
from tests import hostile
from tests.fakes import INFO
from tests.fakes import TEXT as PROMPTED

pytest.importorskip("selenium")
from PIL import Image, PngImagePlugin
from selenium.webdriver import Chrome

from tests.e2e.browser import CHROMIUM, DRIVER
from tests.e2e.modules import NASTY, blank_page, calling

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with blank_page(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def listed(info: ModelInfo) -> dict[str, Any]:
    """A model as `GET /models` lists it, as far as pictures ask."""
    sizes = SizesOut.of(info.sizes)
    return {
        "name": info.name,
        "default": info is INFO,
        "hash": info.hash,
        "takes": info.takes.fields,
        "classes": info.classes.names,
        "width": info.sizes.width,
        "height": info.sizes.height,
        "sizes": sizes and sizes.model_dump(),
        "samplers": [SamplerOut.of(SAMPLERS[name]).model_dump() for name in info.samplers],
    }


MODELS = [listed(INFO), listed(PROMPTED)]
_DROP = """const models = args[1];
const read = async (file) => {
    const bytes = Uint8Array.from(atob(file), letter => letter.charCodeAt(0));
    try {
        return await it.settingsOfPicture(new Blob([bytes]), models);
    } catch (error) {
        const { UnreadablePicture } = await import('/js/png.js');
        return {error: error.message, expected: error instanceof UnreadablePicture};
    }
};
return Promise.all(args[0].map(read))"""


def dropped(page: Chrome, *files: bytes) -> list[dict[str, Any]]:
    texts = [base64.b64encode(file).decode() for file in files]
    found: list[dict[str, Any]] = calling(page, "infotext.js", _DROP, texts, MODELS)
    return found


def wanted() -> Iterator[tuple[SamplingParams, ModelInfo]]:
    conditions = [(INFO, Condition(index)) for index in (None, 0, 1)]
    conditions += [
        (PROMPTED, Condition(prompt=Prompt(text, text[::-1], 1)))
        for text in (*NASTY, "", "cat", "B\xe4r, \x80\x9f", "x\n\\\\\\Negative prompt: y")
    ]
    samplers = itertools.cycle(SAMPLERS.values())
    for info, condition in conditions:
        sampler = next(samplers)
        params = SamplingParams(
            model=info.name,
            condition=condition,
            sampler=sampler.name,
            spacing=sampler.spacings[-1],
            steps=7,
            guidance_scale=2.25,
            guidance_interval=(1e-05, 0.5),
            eta=0.125,
            seed=2**53 - 1,
            n=1,
            width=info.sizes.width,
            height=info.sizes.height,
        )
        yield params.canonical(info), info


def test_a_picture_of_ours_gives_the_request_that_drew_it(page: Chrome) -> None:
    made = list(wanted())
    pairs = list(zip(made, itertools.cycle((PNG, JPEG, WEBP)), strict=False))
    pairs += [(one, PNG) for one in made]
    texts = [describe(params, 0, info) for (params, info), _ in pairs]
    files = [encode(hostile.GREY, kind, text) for text, (_, kind) in zip(texts, pairs, strict=True)]
    for text, ((params, info), _), found in zip(texts, pairs, dropped(page, *files), strict=True):
        assert found["text"] == text
        assert found["notes"] == []
        assert GenerateRequest.parse(found["settings"]).to_params({info.name: info}) == params


def noted(text: str) -> bytes:
    """A PNG as AUTOMATIC1111 writes it."""
    notes, file = PngImagePlugin.PngInfo(), io.BytesIO()
    notes.add_text("parameters", text)
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=notes)
    return file.getvalue()


@pytest.mark.parametrize(
    ("text", "settings", "notes"),
    [
        (
            "a cat, (fluffy:1.2)\nNegative prompt: blurry,\nlowres\nSteps: 20, Sampler: DPM++ 2M "
            "Karras, CFG scale: 7, Seed: 965400086, Size: 16x32, Model hash: 12121212, Model: "
            'text, Clip skip: 2, Lora hashes: "one: 12, two: 34", Version: v1.6.0',
            {
                "model": "text",
                "prompt": "a cat, (fluffy:1.2)",
                "negative_prompt": "blurry,\nlowres",
                "steps": 20,
                "sampler": "dpmpp_2m",
                "spacing": "karras",
                "guidance_scale": 7,
                "seed": 965400086,
                "clip_skip": 1,
                "width": 16,
                "height": 32,
            },
            ["another checkpoint"],
        ),
        (
            "cat\nSteps: 9, Sampler: Euler a, Schedule type: Automatic, Seed: 9007199254740993, "
            "Size: 512x512, Model: other",
            {"model": "fake", "steps": 9, "sampler": "euler_a"},
            ["other is not here", "no class cat", "draws 1x1 only", "seed must be"],
        ),
        (
            "Negative prompt: x\nSteps: 9, Sampler: Restart, CFG scale: high",
            {"model": "fake", "steps": 9},
            ["no negative prompt", "sampler Restart", "guidance_scale must"],
        ),
    ],
)
def test_a_picture_of_others_gives_what_it_can(
    page: Chrome, text: str, settings: dict[str, Any], notes: list[str]
) -> None:
    (found,) = dropped(page, noted(text))
    assert found["settings"] == settings
    assert len(found["notes"]) == len(notes)
    for said, note in zip(found["notes"], notes, strict=True):
        assert note in said


def test_no_file_throws_anything_else_than_that_it_is_unreadable(page: Chrome) -> None:
    random.seed(0)
    whole = [encode(hostile.GREY, kind, hostile.TEXT) for kind in (PNG, JPEG, WEBP)]
    files = [content for content, _ in hostile.pictures().values() if len(content) < 1 << 20]
    for file in whole:
        files += [file[:end] for end in range(0, min(len(file), 400), 3)]
        for _ in range(100):
            changed = bytearray(file)
            for _ in range(3):
                changed[random.randrange(len(changed))] = random.choice((0, 1, 127, 128, 255))
            files.append(bytes(changed))
    files += [noted(text) for text in ("", "no pairs", "a\n" + 'a: "' * 3000, "x" * 12289)]
    files += [noted('Steps: 5, __proto__: x, constructor: y, toString: "z'), b"", b"RIFF0000WEBP"]
    for found in dropped(page, *files):
        assert found.get("expected") or "settings" in found, found
    for found, file in zip(dropped(page, *whole), whole, strict=True):
        assert found["settings"]["steps"] == 2, file
    script = "try { await it.parametersOf(new Blob([new ArrayBuffer(args[0])])) } "
    script += "catch (error) { return error.message }"
    assert "32 MiB" in calling(page, "png.js", script, (1 << 25) + 1)
