"""Requests that are nearly right: bytes as they go over a socket, made from a seed."""

import base64
import io
import json
import random
from collections.abc import Callable
from urllib.parse import urlencode

from PIL import Image

_SOUND: list[tuple[str, str, dict[str, object]]] = [
    ("POST", "/generate", {"class": "7", "steps": 3, "seed": 1}),
    ("POST", "/generate", {"class": 3, "steps": 200, "n": 4, "guidance_scale": 2.5}),
    ("POST", "/generate", {"inputs": "7", "parameters": {"num_inference_steps": 2}}),
    ("POST", "/models/digits", {"inputs": "a 7"}),
    ("POST", "/v1/images/generations", {"prompt": "7", "n": 1, "num_inference_steps": 3}),
    ("POST", "/v1/images/generations", {"prompt": "7", "stream": True, "partial_images": 2}),
    ("POST", "/sdapi/v1/txt2img", {"prompt": "7", "steps": 3, "batch_size": 2}),
    ("POST", "/sdapi/v1/options", {"samples_format": "png"}),
    ("POST", "/sdapi/v1/interrupt", {}),
    ("POST", "/v1/models/local/digits/predictions", {"input": {"prompt": "7", "num_outputs": 2}}),
    ("GET", "/v1/predictions", {}),
    ("POST", "/v1/predictions/x/cancel", {}),
    ("GET", "/generate?class=7&seed=1&steps=2", {}),
    ("HEAD", "/generate?class=7&seed=1&steps=2", {}),
    ("GET", "/models", {}),
    ("GET", "/engine", {}),
    ("GET", "/openapi.json", {}),
    ("GET", "/v2/models/digits/ready", {}),
    ("GET", "/sdapi/v1/progress", {}),
    ("GET", "/images/LBVMAAAA.png", {}),
]
_VALUES: list[object] = [
    None,
    True,
    -1,
    0,
    1e308,
    2**63,
    10**400,
    0.5,
    "",
    "7",
    "0 1 2 3 4 5 6 7 8 9 " * 100,
    "\0",
    "\ud800",
    "../../etc/passwd",
    "a" * 5000,
    [],
    [0, 1],
    [[[[]]]],
    {},
    {"class": 7},
]
_NAMES = [
    "class",
    "steps",
    "seed",
    "n",
    "model",
    "eta",
    "previews",
    "priority",
    "stepz",
    "",
    "x" * 99,
]
_HEADERS = [
    "Accept: image/webp;q=0.1, */*;q=nan",
    "Accept: " + "a/b," * 500,
    "Accept: text/event-stream",
    "Accept-Encoding: br",
    "Connection: close, keep-alive, upgrade",
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 18446744073709551616",
    "Content-Type: application/json; charset=utf-16",
    "Content-Type: multipart/form-data",
    "Content-Type: multipart/form-data; boundary=" + "b" * 300,
    "Cookie: " + "a=b; " * 500,
    "Expect: 100-continue",
    "Forwarded: for=1.2.3.4",
    "Host: evil.test",
    "If-None-Match: " + '"a",' * 500,
    "Origin: http://evil.test",
    "Origin: null",
    "Range: bytes=0-0,1-1,2-2",
    "Sec-Fetch-Site: cross-site",
    "TE: trailers",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "X-Forwarded-For: 127.0.0.1",
    "X-Request-Id: " + "é" * 20,
    "X: " + "a" * 9000,
]


def request(chance: random.Random) -> bytes:
    """One request, with a few things wrong."""
    method, target, body = chance.choice(_SOUND)
    values = json.loads(json.dumps(body))
    while chance.random() < 0.5:
        values[chance.choice(_NAMES)] = chance.choice(_VALUES)
    if chance.random() < 0.1:
        target, values = "/sdapi/v1/png-info", {"image": _picture(chance)}
        method = "POST"
    media_type, content = _body(chance, values)
    headers = [f"Host: {chance.choice(['localhost', '127.0.0.1', '[::1]:80'])}"]
    if method == "POST":
        headers += [f"Content-Type: {media_type}", f"Content-Length: {len(content)}"]
    else:
        content = b""
    while chance.random() < 0.4:
        headers.insert(chance.randrange(len(headers) + 1), chance.choice(_HEADERS))
    if chance.random() < 0.1:
        headers.pop(chance.randrange(len(headers)))
    head = "\r\n".join([f"{method} {target} HTTP/1.1", *headers, "", ""]).encode()
    return mutate(chance, head + content) if chance.random() < 0.5 else head + content


def mutate(chance: random.Random, content: bytes) -> bytes:
    """The same bytes, but for some."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        first = chance.randrange(len(changed) + 1)
        last = min(first + chance.choice([1, 1, 4, 64, 4096]), len(changed))
        act: Callable[[], bytes] = chance.choice(
            [
                lambda: b"",
                lambda: chance.randbytes(chance.randint(1, 8)),
                lambda: bytes(changed[first:last]) * 2,  # noqa: B023 (called at once)
                lambda: chance.choice([b"\0", b"\r\n", b"\n", b" ", b'"', b"{", b"[" * 200]),
            ]
        )
        changed[first:last] = act()
        if not changed:
            break
    return bytes(changed)


def _body(chance: random.Random, values: dict[str, object]) -> tuple[str, bytes]:
    kind = chance.random()
    if kind < 0.7:
        text = json.dumps(values)
        if chance.random() < 0.1:
            text = text.replace("{", '{"class": 1, "class": 2, ', 1)
        if chance.random() < 0.05:
            text = "[" * chance.choice([10, 1000, 30_000]) + text
        return "application/json", text.encode()
    plain = {name: str(value).encode("utf-8", "replace") for name, value in values.items()}
    if kind < 0.9:
        return "application/x-www-form-urlencoded", urlencode(plain).encode()
    parts = [
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in plain.items()
    ]
    return "multipart/form-data; boundary=b", b"".join([*parts, b"--b--\r\n"])


def _picture(chance: random.Random) -> str:
    """A picture with words in it, base64, seldom whole."""
    image = Image.new(chance.choice(["L", "RGB", "RGBA"]), (chance.randint(1, 64), 8))
    file, kind = io.BytesIO(), chance.choice(["PNG", "WEBP", "JPEG"])
    text = "7\nSteps: 2, " + "a: b, " * chance.choice([0, 10, 1000]) + " " * chance.choice([0, 500])
    exif = Image.Exif()
    exif[0x9286] = b"UNICODE\0" + text.encode("utf-16-be")
    image.convert("RGB" if kind == "JPEG" else image.mode).save(file, kind, exif=exif)
    content = file.getvalue()
    if chance.random() < 0.7:
        content = mutate(chance, content)
    return base64.b64encode(content).decode()
