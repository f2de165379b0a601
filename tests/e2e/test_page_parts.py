"""The playground's modules that need no page, in a real browser under the page's own policy."""

import ast
import base64
import io
import itertools
import json
import random
import shlex
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

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
from tests.e2e.live import ROOT, draw
from tests.fakes import INFO
from tests.fakes import TEXT as PROMPTED

pytest.importorskip("selenium")
from PIL import Image, PngImagePlugin
from selenium.webdriver import Chrome

from tests.e2e import browser
from tests.e2e.browser import CHROMIUM, DRIVER, run

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
NASTY = (
    'it\'s "quoted" \\ and \\\\',
    "$HOME `id` $(id) ${PATH} !! %PATH% & | ; > < * ? ~ #",
    "two\nlines\r\n\ttab, and an end\n",
    "Negative prompt: none\n\\Negative prompt: two\n\\\\Negative prompt: three",
    "ein Bär, 熊, 🐻‍❄️, ne\u0301e\u202e backwards \u2028 \ufeff\x7f\x85",
    "a: b, Steps: 7, \"c, d\": 'e'",
    "'''\n\"\"\"\n</script><!-- {0} {x} %s \\u0041 \\x41 \\n",
    "-d @/etc/passwd",
)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"class": "7", "steps": 3, "seed": 1},
    {"model": "a b&c=d", "class": "ä+ö%20", "sampler": "dpmpp_2m", "spacing": "karras", "n": 16},
    {"guidance_scale": 0, "guidance_interval": [0, 0.25], "eta": 1e-07, "seed": 2**53 - 1},
    {"prompt": "cat", "clip_skip": 2, "width": 64, "height": 32, "guidance_scale": 7.5},
    *({"prompt": text, "negative_prompt": text[::-1], "seed": 0} for text in NASTY),
]


class _Files(SimpleHTTPRequestHandler):
    """The page's files, and an empty page that has its policy."""

    def do_GET(self) -> None:
        if self.path != "/":
            super().do_GET()
            return
        body = b"<!doctype html><title>parts</title><link rel=icon href=data:,>"
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-security-policy", POLICY)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """A browser at the empty page; none of its tests leaves a word on the console."""
    files = partial(_Files, directory=str(ROOT / "app/page"))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with browser.chromium(tmp_path_factory.mktemp("chromium")) as driver:
                driver.get(f"http://127.0.0.1:{server.server_port}/")
                yield driver
                assert driver.get_log("browser") == []
        finally:
            server.shutdown()
            thread.join()


def calling(page: Chrome, module: str, body: str, *arguments: object) -> Any:
    """What `body` gives, with a module's exports as `it` and the arguments as `args`."""
    script = f"async (...args) => {{ const it = await import('/js/{module}'); {body} }}"
    found = run(page, script, *arguments)
    assert not (isinstance(found, str) and found.startswith("failed: ")), found
    return found


# Links


def test_a_query_means_to_the_service_what_the_settings_do(page: Chrome) -> None:
    queries = calling(page, "link.js", "return args[0].map(it.queryOf)", SETTINGS)
    for settings, query in zip(SETTINGS, queries, strict=True):
        pairs = parse_qsl(query, strict_parsing=bool(query), errors="strict")
        read = GenerateRequest.parse(dict(pairs), strict=False)
        assert read == GenerateRequest.parse(settings)


def test_a_link_restores_its_settings_and_nothing_else(page: Chrome) -> None:
    script = """return args[0].map(settings => {
        const link = new URL(it.linkOf(settings, location.href + '?seed=9&stray=1#part'));
        return [link.pathname, link.hash, it.settingsOf(link.search)];
    })"""
    for settings, (path, fragment, found) in zip(
        SETTINGS, calling(page, "link.js", script, SETTINGS), strict=True
    ):
        assert (path, fragment) == ("/", "")
        assert found == {"settings": settings, "wrong": {}}


@pytest.mark.parametrize(
    ("query", "settings", "wrong"),
    [
        ("?steps=5&previews=4&__proto__=x&constructor=y&webhook=http://a", {"steps": 5}, []),
        ("steps=many&seed=-1&n=1.5&eta=Infinity&clip_skip=0x10", {}, "clip_skip eta n seed steps"),
        ("seed=9007199254740993&steps=&class=", {}, "seed"),
        ("steps=5&steps=6&seed=1", {"seed": 1}, "steps"),
        ("guidance_interval=0.5&eta=.5", {"eta": 0.5}, "guidance_interval"),
        ("guidance_interval=0,1,0&prompt=%00", {}, "guidance_interval prompt"),
        (f"prompt={'a' * 4097}", {}, "prompt"),
    ],
)
def test_a_link_says_what_it_cannot_restore(
    page: Chrome, query: str, settings: dict[str, Any], wrong: str | list[str]
) -> None:
    found = calling(page, "link.js", "return it.settingsOf(args[0])", query)
    assert found["settings"] == settings
    assert sorted(found["wrong"]) == (wrong.split() if isinstance(wrong, str) else wrong)


def test_a_link_that_no_server_would_read_is_refused(page: Chrome) -> None:
    script = "try { it.queryOf({prompt: args[0]}) } catch (error) { return error.message }"
    assert "too long" in calling(page, "link.js", script, "熊" * 1000)


# Pictures


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
        for text in (*NASTY, "", "cat", "x\n\\\\\\Negative prompt: y")
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


# Programs


def programs(page: Chrome, settings: object, base: str, **options: object) -> dict[str, Any]:
    script = "return it.snippets(args[0], args[1], args[2])"
    found = calling(page, "snippets.js", script, settings, base, options)
    return {program["name"]: program for program in found}


def arguments_of(program: str) -> list[dict[str, Any]]:
    """The keyword arguments and the first other one of all calls in a Python program."""
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    found = []
    for call in calls:
        given = {word.arg: word.value for word in call.keywords if word.arg}
        given |= {"": call.args[0]} if call.args else {}
        literal = {}
        for name, value in given.items():
            try:
                literal[name] = ast.literal_eval(value)
            except ValueError:
                continue
        found.append(literal)
    return found


_NODE = """globalThis.fetch = async (url, { headers, body }) => {
    console.log(JSON.stringify({ url, headers, body: JSON.parse(body) }));
    process.exit();
};
"""


@pytest.mark.parametrize("keyed", [False, True])
def test_programs_quote_every_text(page: Chrome, tmp_path: Path, keyed: bool) -> None:
    base = "http://localhost:8000/a'b$c/"
    script = "return args[0].map(one => it.snippets(one, args[1], {keyed: args[2]}))"
    key = {"X-API-Key": "YOUR_KEY"} if keyed else {}
    found = calling(page, "snippets.js", script, SETTINGS, base, keyed)
    scripts = []
    for settings, made in zip(SETTINGS, found, strict=True):
        told = {program["name"]: program["text"] for program in made}
        words = shlex.split(told["curl"])
        assert words[:3] == ["curl", "-f", f"{base}generate"]
        assert json.loads(words[words.index("-d") + 1]) == settings
        assert ("X-API-Key: YOUR_KEY" in words) == keyed
        post = next(each for each in arguments_of(told["Python"]) if "json" in each)
        assert (post[""], post["json"]) == (f"{base}generate", settings)
        assert post["headers"].items() >= key.items()
        calls = arguments_of(told["OpenAI client"])
        asked = next(each for each in calls if "prompt" in each)
        assert asked["prompt"] == settings.get("prompt", settings.get("class", ""))
        assert asked["extra_body"].get("negative_prompt") == settings.get("negative_prompt")
        assert {"base_url": f"{base}v1", "api_key": "YOUR_KEY" if keyed else "none"} in calls
        scripts.append(told["JavaScript"])
        assert all(character.isprintable() or character == "\n" for character in "".join(words))
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    file = tmp_path / "program.mjs"
    for settings, program in zip(SETTINGS, scripts, strict=True):
        file.write_text(_NODE + program, encoding="utf-8")
        said = subprocess.run(["node", file], capture_output=True, check=True, text=True)
        sent = json.loads(said.stdout)
        assert (sent["url"], sent["body"]) == (f"{base}generate", settings)
        assert sent["headers"].items() >= key.items()


def test_openai_is_asked_in_its_own_words(page: Chrome) -> None:
    settings = SETTINGS[2] | SETTINGS[3] | {"width": 64, "height": 32, "steps": 5, "previews": 4}
    found = programs(page, settings, "http://localhost:8000/")["OpenAI client"]
    assert sorted(found["missing"]) == ["eta", "guidance_interval"]
    asked = next(each for each in arguments_of(found["text"]) if "prompt" in each)
    assert asked == {
        "model": "a b&c=d",
        "prompt": "ä+ö%20",
        "n": 16,
        "size": "64x32",
        "response_format": "b64_json",
        "extra_body": {
            "num_inference_steps": 5,
            "sampler": "dpmpp_2m karras",
            "guidance_scale": 0,
            "seed": 2**53 - 1,
        },
    }
    bare = programs(page, {"spacing": "default", "width": 8}, "http://a/", model="digits")
    assert sorted(bare["OpenAI client"]["missing"]) == ["spacing", "width"]
    assert "model=" in bare["OpenAI client"]["text"]


COMMANDS = {
    "curl": ["sh", "-c"],
    "Python": [sys.executable, "-c"],
    "JavaScript": ["node", "--input-type=module", "-e"],
    "OpenAI client": [sys.executable, "-c"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_program_draws_the_same_picture(
    page: Chrome, url: str, tmp_path: Path, name: str
) -> None:
    if not shutil.which(COMMANDS[name][0]) or (name == "curl" and not shutil.which("curl")):
        pytest.skip(f"{COMMANDS[name][0]} is not installed")
    if name == "OpenAI client":
        pytest.importorskip("openai")
    settings = {"class": "7", "steps": 3, "seed": 1, "sampler": "euler", "spacing": "karras"}
    text = programs(page, settings, f"{url}/")[name]["text"]
    subprocess.run([*COMMANDS[name], text], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "picture.png").read_bytes() == draw(url, settings)


def test_a_program_of_several_pictures_gets_them_all(
    page: Chrome, url: str, tmp_path: Path
) -> None:
    settings = {"class": "7", "steps": 3, "seed": 1, "n": 2}
    text = programs(page, settings, f"{url}/")["curl"]["text"]
    subprocess.run(["sh", "-c", text], cwd=tmp_path, check=True, capture_output=True)
    with zipfile.ZipFile(tmp_path / "pictures.zip") as pictures:
        made = sorted(map(pictures.read, pictures.namelist()))
    assert made == sorted(draw(url, {**settings, "n": 1, "seed": seed}) for seed in (1, 2))
