"""Whatever is sent, the event loop is busy with it for some milliseconds, and nothing breaks.

Counted are seconds of processor of the loop's own thread: on a busy machine they stay the same.
"""

import asyncio
import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI
from starlette.types import Message

from app.main import create_app
from app.settings import Settings
from models.conditioning import Classes
from tests import hostile
from tests.engine import asynchronous, running
from tests.fakes import INFO, FakeRunner

BODY, HEADER = 64_000, 60_000  # bytes
LONGEST = 0.1  # seconds; below 0.01 as a rule, and between 0.02 and minutes before
NAMES = tuple(f"w{k} w{k * 7 % 1000} w{k * 13 % 1000}" for k in range(1000))
JSON, FORM = "application/json", "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=x"
ROUTES = (
    "/generate",
    "/models/fake",
    "/v1/images/generations",
    "/v1/models/x/fake/predictions",
    "/sdapi/v1/txt2img",
    "/sdapi/v1/png-info",
    "/sdapi/v1/options",
)


@dataclass(frozen=True)
class Sent:
    """One request."""

    name: str
    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Got:
    """What came of it."""

    status: int
    size: int
    seconds: float


def filled(head: str, unit: str, tail: str = "") -> bytes:
    """As often a unit as there is room for."""
    return (head + unit * ((BODY - len(head) - len(tail)) // len(unit.encode())) + tail).encode()


def json_bodies() -> dict[str, bytes]:
    return {
        "unknown fields": json.dumps({f"{k:x}": 1 for k in range(5000)}).encode(),
        "fields nearly known": json.dumps({f"guidance_scal{k}": 1 for k in range(2500)}).encode(),
        "a long field": filled('{"', "guidance_scale", '": 1}'),
        "objects": filled('{"a":[', '{"":1},', "1]}"),
        "arrays in arrays": filled('{"a":', "["),
        "objects in objects": filled("", '{"a":'),
        "endless digits": filled('{"seed":', "9", "}"),
        "long digits": filled('{"a":[', "9" * 4300 + ",", "1]}"),
        "an integer of 4300 digits": b'{"class":' + b"9" * 4300 + b"}",
        "infinite numbers": filled('{"guidance_interval":[', "1e999,", "1]}"),
        "an exact number": filled('{"guidance_scale":0.', "1", "}"),
        "an interval": filled('{"guidance_interval":[', '"x",', "1]}"),
        "escapes": filled('{"class":"', "\\u00e9", '"}'),
        "a long class": filled('{"class":"', "x", '"}'),
        "a long model": filled('{"model":"', "\\n", '"}'),
        "spaces": filled("", " ", "{}"),
        "a key again and again": filled("{", '"steps":1,', '"n":1}'),
    }


def prompts() -> dict[str, str]:
    return {
        "all classes": " ".join(f"w{k}" for k in range(1000)) + " x" * 25_000,
        "spaces": " " * BODY + "x",
        "letters that fold": "\u0130" * 30_000,
        "most of what is allowed": " ".join(f"w{k}" for k in range(800)),
    }


def texts() -> dict[str, str]:
    """Of pictures."""
    units = (" ", "a", ": ", 'a:"', "\\", ",", "a:,", "\n")
    return {f"text of {unit!r}": "a\nb" + unit * 4000 for unit in units}


def forms() -> Iterator[Sent]:
    for unit in ("&", "a&", "a=&", "a=1&", "class=1&", "=", "%", "%e9", "+", ";"):
        body = (unit * BODY)[: 1 << 14].encode()
        yield Sent(f"form of {unit!r}", "POST", "/generate", {"content-type": FORM}, body)
    head = b"--x\r\nContent-Disposition: form-data; name="
    parts = {
        "parts": (head + b"a\r\n\r\n\r\n") * 300,
        "semicolons": (head + b'"' + b";" * 4000 + b'"\r\n\r\n\r\n') * 4,
        "quotes": (head + b'";' * 2000 + b"\r\n\r\n\r\n") * 4,
        "nearly boundaries": head + b"a\r\n\r\n" + b"\r\n--x-" * 2500,
        "headers": b"--x\r\n" + b"a:\r\n" * 4000,
        "line ends": b"\r\n" * 8000,
    }
    for name, body in parts.items():
        body = (body + b"\r\n--x--\r\n")[: 1 << 14]
        yield Sent(f"parts: {name}", "POST", "/generate", {"content-type": MULTIPART}, body)
    body = head + b"a\r\n\r\n" + b"9" * 16_000 + b"\r\n--x--\r\n"
    for charset in ("punycode", "idna", "undefined", "utf-7", "unicode_escape"):
        kind = f"{MULTIPART}; charset={charset}"
        yield Sent(f"charset {charset}", "POST", "/generate", {"content-type": kind}, body)


def headers() -> Iterator[Sent]:
    target = "/generate?class=0&seed=1&steps=1"
    names = ("accept", "if-none-match", "cookie", "x-request-id", "origin", "range", "host")
    units = (
        ",",
        ";",
        "a,",
        "a;q=1,",
        '"a",',
        " ",
        "a=b;",
        "*/*,",
        '"',
        "\\",
        "[",
        "9",
        "/",
        "\xe9",
    )
    for name in names:
        for unit in units:
            value = (unit * HEADER)[:HEADER]
            yield Sent(f"{name} of {unit!r}", "GET", target, {name: value})
    for kind in (JSON, FORM, MULTIPART):
        for unit in (";", '; a="', ";a=b", '\\";'):
            value = kind + (unit * HEADER)[:HEADER]
            yield Sent(f"{kind} and {unit!r}", "POST", "/generate", {"content-type": value}, b"a=1")


def addresses() -> Iterator[Sent]:
    for unit in ("a", "/", "a/", ".", "../", "%", "%41", "-", "=", "&", "a&", "a=b&", "class=1&"):
        for path in ("/", "/images/", "/models/", "/v1/models/", "/v2/models/", "/sdapi/v1/"):
            for length in (8000, HEADER):
                yield Sent(f"{path} {length} {unit!r}", "GET", path + (unit * length)[:length], {})
        for path in ("/generate", "/livez", "/images/a.png"):
            for length in (8000, HEADER):
                target = f"{path}?{(unit * length)[:length]}"
                yield Sent(f"{path}? {length} {unit!r}", "GET", target, {})


def requests() -> Iterator[Sent]:
    for name, body in json_bodies().items():
        for route in ROUTES:
            yield Sent(f"{name} to {route}", "POST", route, {"content-type": JSON}, body)
    for name, prompt in prompts().items():
        for route, body in (
            ("/models/fake", {"inputs": prompt}),
            ("/v1/images/generations", {"prompt": prompt}),
            ("/sdapi/v1/txt2img", {"prompt": prompt, "negative_prompt": prompt}),
            ("/v1/models/x/fake/predictions", {"input": {"prompt": prompt}}),
        ):
            content = json.dumps(body, ensure_ascii=False).encode()
            yield Sent(f"{name} to {route}", "POST", route, {"content-type": JSON}, content)
    pictures = {name: content for name, (content, _) in hostile.pictures().items()}
    pictures |= {name: hostile.noted(text, compressed=True) for name, text in texts().items()}
    images = {name: base64.b64encode(content).decode() for name, content in pictures.items()}
    images |= {"spaces": " " * BODY, "letters": "a " * (BODY // 2), "data": "base64," * 9000}
    for name, image in images.items():
        body = json.dumps({"image": image}).encode()
        yield Sent(name, "POST", "/sdapi/v1/png-info", {"content-type": JSON}, body)
    yield from forms()
    yield from headers()
    yield from addresses()


async def send(app: FastAPI, sent: Sent) -> Got:
    """Straight to the application; raises what it raises."""
    address = urlsplit(sent.target)
    given = {"host": "localhost", **sent.headers}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": sent.method,
        "scheme": "http",
        "path": sent.target.partition("?")[0],
        "query_string": address.query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    answers: list[Message] = []
    bodies = [{"type": "http.request", "body": sent.body, "more_body": False}]

    async def receive() -> Message:
        if not bodies:
            await asyncio.Event().wait()
        return bodies.pop()

    async def answer(message: Message) -> None:
        answers.append(message)

    began = time.thread_time()
    await app(scope, receive, answer)
    seconds = time.thread_time() - began
    size = sum(len(message.get("body", b"")) for message in answers)
    return Got(answers[0]["status"], size, seconds)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*codec:DeprecationWarning")
@asynchronous
async def test_the_loop_is_never_busy_for_long_and_nothing_is_an_error_of_ours() -> None:
    info = dataclasses.replace(INFO, classes=Classes(NAMES, 1000))
    wrong: list[object] = []
    async with running(FakeRunner(info)) as engine:
        app = create_app(Settings(), engine)
        await send(app, Sent("first", "GET", "/livez", {}))
        for sent in requests():
            got = await send(app, sent)
            if got.seconds > LONGEST:  # a collection of garbage may have been in it
                got = await send(app, sent)
            if got.seconds > LONGEST or got.status >= 500 or got.size > 50_000:
                wrong.append((sent.name, got))
    assert not wrong
