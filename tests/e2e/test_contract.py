"""The native contract over real sockets, with curl and httpx: media types, headers, methods."""

import base64
import io
import json
import subprocess
import zipfile
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.files.formats import SOURCE_TYPE, open_image
from tests.e2e.live import web

SEVEN = {"class": "7", "steps": 10, "seed": 5}


def curl(*arguments: str, cwd: Path | None = None) -> bytes:
    command = ["curl", "--silent", "--show-error", "--max-time", "60", *arguments]
    return subprocess.run(command, check=True, capture_output=True, cwd=cwd).stdout


def post(url: str, accept: str = "*/*", **more: object) -> httpx.Response:
    return web.post(f"{url}/generate", json=SEVEN | more, headers={"accept": accept}, timeout=60)


@pytest.fixture(scope="module")
def seven(url: str) -> bytes:
    return post(url).content


def pixels(content: bytes) -> bytes:
    return open_image(content).image.convert("L").tobytes()


def test_curl_saves_a_file_by_its_name(url: str, seven: bytes, tmp_path: Path) -> None:
    curl("-OJ", f"{url}/generate?class=7&steps=10&seed=5", cwd=tmp_path)
    assert (tmp_path / "digits-7-5.png").read_bytes() == seven


@pytest.mark.parametrize(
    "arguments",
    [
        ["-d", "class=7", "-d", "steps=10", "-d", "seed=5"],
        ["-d", "class_label=7&num_inference_steps=10&seed=5&n=&guidance_interval=0,1"],
        ["-F", "class=7", "-F", "steps=10", "-F", "seed=5"],
        ["-d", json.dumps(SEVEN)],
        ["-H", "content-type: application/json", "-d", json.dumps(SEVEN)],
        ["-H", "content-type: application/json; charset=utf-8", "-d", json.dumps(SEVEN)],
    ],
    ids=["form", "aliases", "multipart", "json-as-curl-sends-it", "json", "charset"],
)
def test_bodies_that_mean_the_same(url: str, seven: bytes, arguments: list[str]) -> None:
    assert curl(*arguments, f"{url}/generate") == seven


@pytest.mark.parametrize(
    ("accept", "media_type", "exact"),
    [
        ("image/png", "image/png", True),
        ("image/webp", "image/webp", True),
        ("image/jpeg", "image/jpeg", False),
        ("image/*", "image/png", True),
        ("text/html,image/avif,image/webp,*/*;q=0.8", "image/webp", True),
    ],
)
def test_every_format_holds_the_same_picture(
    url: str, seven: bytes, accept: str, media_type: str, exact: bool
) -> None:
    answer = post(url, accept)
    assert answer.headers["content-type"] == media_type
    assert "Accept" in answer.headers["vary"]
    ours, png = pixels(answer.content), pixels(seven)
    furthest = max(abs(a - b) for a, b in zip(ours, png, strict=True))
    assert furthest == 0 if exact else furthest < 32


def test_every_format_says_that_a_machine_drew_it(url: str) -> None:
    for media_type in ("image/png", "image/webp", "image/jpeg"):
        opened = open_image(post(url, media_type).content)
        assert opened.parameters is not None
        assert "Seed: 5, Size: 32x32" in opened.parameters
        xmp = opened.image.info.get("XML:com.adobe.xmp") or opened.image.info["xmp"].decode()
        assert f'DigitalSourceType="{SOURCE_TYPE}"' in xmp
        if media_type != "image/png":
            assert opened.image.getexif()[0x010E] == SOURCE_TYPE


def test_json_holds_pictures_and_what_was_used(url: str, seven: bytes) -> None:
    body = post(url, "application/json").json()
    (image,) = body.pop("images")
    assert base64.b64decode(image["data"]) == seven
    assert web.get(url + image["url"]).content == seven
    assert post(url, **body).content == seven, "what was used is a request"
    assert (body["class"], body["n"], image["seed"]) == ("7", 1, 5)


def test_several_images_are_json_or_a_zip(url: str) -> None:
    body = post(url, n=3).json()
    files = [base64.b64decode(image["data"]) for image in body["images"]]
    answer = post(url, "application/zip", n=3)
    assert answer.headers["content-disposition"] == 'inline; filename="digits-7-5.zip"'
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["5.png", "6.png", "7.png"]
        assert [archive.read(name) for name in archive.namelist()] == files
    assert [post(url, seed=5 + k).content for k in range(3)] == files


def test_nonsense_is_not_acceptable(url: str) -> None:
    for accept, n in (("text/html", 1), ("image/png", 2), ("image/png;q=0", 1), ("nonsense", 1)):
        answer = post(url, accept, n=n)
        assert answer.status_code == 406
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["vary"].startswith("Accept")
        assert "application/json" in answer.json()["error"]
    got = web.get(f"{url}/generate?seed=1", headers={"accept": "text/html"})
    assert got.status_code == 406


def test_headers_say_what_was_drawn(url: str) -> None:
    answer = post(url, guidance_scale=1.5)
    used = json.loads(answer.headers["x-generation-parameters"])
    assert used == SEVEN | {
        "model": "digits",
        "guidance_scale": 1.5,
        "guidance_interval": [0.0, 1.0],
        "sampler": "ddim",
        "spacing": "default",
        "eta": 0.0,
        "n": 1,
        "width": 32,
        "height": 32,
    }
    assert post(url, **used).content == answer.content
    assert answer.headers["x-seed"] == "5"
    assert answer.headers["cache-control"] == "no-store"
    assert web.get(url + answer.headers["content-location"]).content == answer.content
    timing = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", "))
    assert list(timing) == ["queue", "denoise", "decode", "encode"]
    assert all(float(milliseconds) >= 0 for milliseconds in timing.values())
    assert float(timing["denoise"]) > 0


def test_a_request_id_is_taken_or_made(url: str) -> None:
    sent = web.get(f"{url}/livez", headers={"x-request-id": "mine-1"})
    assert sent.headers["x-request-id"] == "mine-1"
    made = [web.get(f"{url}/nowhere").headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    for bad in ("x" * 129, "a b", "é"):
        answer = web.get(f"{url}/livez", headers={"x-request-id": bad.encode()})
        assert len(answer.headers["x-request-id"]) == 32


def test_pages_of_allowed_origins_may_read_all_of_it(url: str) -> None:
    origin = {"origin": "http://localhost:3000"}
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "x-y"}
    preflight = web.options(f"{url}/generate", headers=origin | asked)
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    answer = web.get(f"{url}/generate?class=7&steps=1&seed=1", headers=origin)
    assert answer.headers["access-control-allow-origin"] == origin["origin"]
    exposed = set(answer.headers["access-control-expose-headers"].split(", "))
    ours = {name for name in answer.headers if name.startswith(("x-", "content-l", "content-d"))}
    missing = {name for name in ours | {"etag"} if name.title() not in {e.title() for e in exposed}}
    assert missing == {"content-length"}, "which pages may read anyway"


def test_what_a_seed_makes_can_be_had_again(url: str, seven: bytes) -> None:
    query = f"{url}/generate?class=7&steps=10&seed=5"
    first = web.get(query)
    assert first.content == seven
    tag = first.headers["etag"]
    assert tag.startswith('"')
    assert first.headers["cache-control"] == "private, no-cache"
    before = web.get(f"{url}/engine").json()["rows"]
    for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        again = web.get(query, headers={"if-none-match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert web.get(f"{url}/engine").json()["rows"] == before, "nothing was drawn"
    assert web.get(query, headers={"if-none-match": '"x"'}).status_code == 200
    other = web.get(query, headers={"accept": "image/webp"})
    assert other.headers["etag"] != tag, "other bytes, another tag"


def test_an_image_has_an_address_that_never_means_another(url: str, seven: bytes) -> None:
    path = web.get(f"{url}/generate?class=7&steps=10&seed=5").headers["content-location"]
    png = web.get(url + path)
    assert png.content == seven
    assert png.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert web.get(url + path, headers={"if-none-match": png.headers["etag"]}).status_code == 304
    webp = web.get(url + path.replace(".png", ".webp"))
    assert webp.headers["content-type"] == "image/webp"
    assert pixels(webp.content) == pixels(seven)
    bare = web.get(url + path.removesuffix(".png"), headers={"accept": "image/jpeg"})
    assert bare.headers["content-type"] == "image/jpeg"
    name = path.rsplit("/", 1)[1]
    for wrong in ("x.png", name[1:], "A" + name[1:], name.replace(".png", ".gif"), "%00", "é.png"):
        assert web.get(f"{url}/images/{wrong}").status_code == 404, wrong


def test_head_says_the_same_and_draws_nothing(url: str) -> None:
    query = f"{url}/generate?class=7&steps=10&seed=6"
    before = web.get(f"{url}/engine").json()["rows"]
    head = web.head(query)
    path = head.headers["content-location"]
    assert web.head(url + path).headers["etag"] == head.headers["etag"]
    assert web.get(f"{url}/engine").json()["rows"] == before
    got = web.get(query)
    varying = {"date", "content-length", "server-timing", "x-request-id"}
    said = {name: value for name, value in head.headers.items() if name not in varying}
    assert said == {name: value for name, value in got.headers.items() if name not in varying}
    assert curl("--head", query).startswith(b"HTTP/1.1 200")
    assert web.head(f"{url}/generate?class=eleven").status_code == 422


def test_without_a_seed_every_get_is_another(url: str) -> None:
    first, second = (web.get(f"{url}/generate?class=7&steps=1") for _ in range(2))
    assert first.headers["x-seed"] != second.headers["x-seed"]
    assert first.headers["cache-control"] == "no-store"
    assert "etag" not in first.headers
    assert web.head(f"{url}/generate?steps=1").headers["cache-control"] == "no-store"


def test_other_methods_are_told_which_there_are(url: str) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        answer = web.request(method, f"{url}/generate")
        assert answer.status_code == 405
        assert answer.headers["allow"] == "GET, HEAD, POST"
        assert answer.headers["content-type"] == "application/problem+json"


def events(text: str) -> list[tuple[str, dict[str, object]]]:
    parsed = []
    for block in text.strip().split("\n\n"):
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if lines:
            name, data = (line.partition(": ")[2] for line in lines)
            parsed.append((name, json.loads(data)))
    return parsed


def test_events_tell_of_every_step_of_the_way(url: str) -> None:
    answer = post(url, "text/event-stream", steps=100, previews=3, n=2)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    told = events(answer.text)
    names = [name for name, _ in told]
    assert names[0] == "queued"
    assert names.index("completed") == len(names) - 1
    steps = [data["step"] for name, data in told if name == "progress"]
    assert steps == sorted(steps)
    shown = [(data["step"], data["image"]) for name, data in told if name == "preview"]
    assert sorted(shown) == [(step, image) for step in (25, 50, 75) for image in (0, 1)]
    assert [step for step, _ in shown] == sorted(step for step, _ in shown)
    whole = post(url, "application/json", steps=100, n=2).json()
    done = told[-1][1]
    assert set(done.pop("timing")) == {"queue", "denoise", "decode", "encode"}  # type: ignore[call-overload]
    assert done.pop("warnings") == []  # type: ignore[call-overload]
    assert done == whole, "whose warnings are in a header"


def test_a_preview_is_like_the_picture(url: str) -> None:
    """The last of many is nearer to the end than to any other digit."""
    ends = [post(url, **{"class": str(k)}, steps=60).content for k in range(10)]
    stream = post(url, "text/event-stream", steps=60, previews=16)
    last = [data["data"] for name, data in events(stream.text) if name == "preview"][-1]
    with Image.open(io.BytesIO(base64.b64decode(str(last)))) as preview:
        seen = preview.convert("L").resize((32, 32)).tobytes()

    def distance(content: bytes) -> int:
        return sum((a - b) ** 2 for a, b in zip(seen, pixels(content), strict=True))

    assert min(range(10), key=lambda k: distance(ends[k])) == 7


def test_what_cannot_begin_is_an_error_and_no_stream(url: str) -> None:
    answer = post(url, "text/event-stream", steps=1000, n=16, timeout=0.01)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
