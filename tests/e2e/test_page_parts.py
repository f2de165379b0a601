"""The playground's links and programs, by what the service and other languages make of them."""

import ast
import json
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from app.schemas.requests import GenerateRequest
from app.schemas.samplers import sampler_of
from models.sampling import SAMPLERS
from tests.e2e.live import draw

pytest.importorskip("selenium")
from selenium.webdriver import Chrome

from tests.e2e.browser import CHROMIUM, DRIVER
from tests.e2e.modules import NASTY, blank_page, calling

pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="Chromium is not installed")

SETTINGS: list[dict[str, Any]] = [
    {},
    {"class": "7", "steps": 3, "seed": 1},
    {"model": "a b&c=d", "class": "ä+ö%20", "sampler": "dpmpp_2m", "spacing": "karras", "n": 16},
    {"guidance_scale": 0, "guidance_interval": [0, 0.25], "eta": 1e-07, "seed": 2**53 - 1},
    {"prompt": "cat", "clip_skip": 2, "width": 64, "height": 32, "guidance_scale": 7.5},
    *({"prompt": text, "negative_prompt": text[::-1], "seed": 0} for text in NASTY),
]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with blank_page(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


def test_models_that_are_not_loaded_yet_are_waited_for(page: Chrome) -> None:
    script = """let asked = 0;
    const models = () => [
        {name: 'never loaded', default: false, defaults: null},
        {name: 'loading', default: true, defaults: asked++ ? {} : null},
    ];
    const {models: found} = await it.loadModels({json: async () => ({models: models()})}, () => {});
    return [found.map(({name}) => name), asked];"""
    assert calling(page, "models.js", script) == [["loading"], 2]


def test_a_picture_says_why_it_waits_for_its_model(page: Chrome) -> None:
    """One that does not load, one that is gone, and one that is only not loaded yet."""
    script = """const listed = {
        models: [{name: 'broken'}, {name: 'fine'}], failed: [{name: 'broken', reason: 'no file'}],
    };
    const job = {status: 'queued', queue_position: 0, eta: null};
    const jobs = new it.Jobs({json: async path => path === 'models' ? listed : job});
    return Promise.all(['broken', 'gone', 'fine'].map(model => new Promise(done => {
        const asked = jobs.join({key: model, id: model, settings: {model}, created: 0});
        jobs.addEventListener('change', ({detail}) => detail === asked && done(detail.note));
    })));"""
    assert calling(page, "jobs.js", script) == [
        "Its model does not load: no file.",
        "Its model does not load: the service has it no longer.",
        "",
    ]


def test_of_a_long_prompt_the_beginning_is_said(page: Chrome) -> None:
    said = "return args[0].map(prompt => it.orderOf({prompt, n: 2}))"
    short, long = calling(page, "models.js", said, ["a cat", "🐈" * 4096])
    assert short == "2 pictures of a cat"
    assert long.startswith("2 pictures of 🐈🐈")
    assert long.endswith("🐈…")
    assert len(long) < 100


def test_the_models_are_asked_for_again_when_all_are_loaded(page: Chrome) -> None:
    script = """const [corner, away] = [document.createElement('p'), document.createElement('p')];
    const answers = [{ready: false, rows: 0}, {ready: true, rows: 0}];
    const json = async () => answers.shift() ?? new Promise(() => {});
    const jobs = Object.assign(new EventTarget(), {open: [{}]});
    return new Promise(done => {
        it.watch({json}, {corner, away}, jobs, () => done(answers.length));
    });"""
    assert calling(page, "status.js", script) == 0


def test_a_hidden_page_holds_no_connection_while_nothing_is_under_way(page: Chrome) -> None:
    script = """let [hidden, busy, open] = [true, false, 0];
    Object.defineProperty(document, 'hidden', {get: () => hidden, configurable: true});
    let comment;
    const request = async () => {
        open += 1;
        const start = (stream) => {
            comment = () => stream.enqueue(new TextEncoder().encode(': here\\n\\n'));
        };
        return {body: new ReadableStream({start, cancel: () => { open -= 1; }})};
    };
    const soon = () => new Promise(done => setTimeout(done, 20));
    const found = [];
    const look = async () => { comment?.(); await soon(); found.push(open); };
    it.follow({request}, () => {}, () => busy);
    await look();
    hidden = false;
    document.dispatchEvent(new Event('visibilitychange'));
    await soon();
    await look();
    [hidden, busy] = [true, true];
    await look();
    busy = false;
    await look();
    delete document.hidden;
    return found;"""
    assert calling(page, "stream.js", script) == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("kept", "found"),
    [
        ('{"list": [1], "own": {"text": "b"}, "more": 2}', {"own": {"text": "b"}, "more": 2}),
        ('{"list": [1]}', {}),
        *((text, None) for text in ("{", "5", "null", "[]", '{"list": 1}', '{"own": {"text": 1}}')),
    ],
)
def test_what_another_version_kept_is_forgotten(
    page: Chrome, kept: str, found: dict[str, Any] | None
) -> None:
    script = """localStorage.setItem('darkroom.test', args[0]);
    return it.recall('test', args[1]);"""
    otherwise: dict[str, Any] = {"list": [], "own": {"text": "a"}}
    expected = otherwise if found is None else otherwise | {"list": [1]} | found
    assert calling(page, "memory.js", script, kept, otherwise) == expected


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
    return new Response("");
};
for (const program of process.argv.slice(2)) await import(program);
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
        for name in ("curl", "Python", "JavaScript"):
            lines = {line.strip().split(":")[0] for line in told[name].splitlines()}
            assert lines >= {f'"{field}"' for field in settings}, "each field has a line"
        scripts.append(told["JavaScript"])
        assert all(character.isprintable() or character == "\n" for character in "".join(words))
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    (tmp_path / "main.mjs").write_text(_NODE, encoding="utf-8")
    files = [tmp_path / f"program-{k}.mjs" for k in range(len(scripts))]
    for file, program in zip(files, scripts, strict=True):
        file.write_text(program, encoding="utf-8")
    command = ["node", "main.mjs", *map(str, files)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    for settings, line in zip(SETTINGS, ran.stdout.splitlines(), strict=True):
        sent = json.loads(line)
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


def test_openai_is_told_the_sampler_and_the_spacing_in_one_name(page: Chrome) -> None:
    wanted = [(name, spacing) for name in SAMPLERS for spacing in SAMPLERS[name].spacings]
    script = """return args[0].map(([sampler, spacing]) =>
        it.snippets({sampler, spacing}, 'http://a/').at(-1).text)"""
    for pair, text in zip(wanted, calling(page, "snippets.js", script, wanted), strict=True):
        asked = next(each for each in arguments_of(text) if "prompt" in each)
        assert sampler_of(asked["extra_body"]["sampler"], "sampler") == pair


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
