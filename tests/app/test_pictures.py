"""Strangers' pictures: read by their structure, and refused before anything unfolds."""

import io
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import ExifTags, Image, WebPImagePlugin

from app.engine.results import Pixels
from app.files.chunks import Unreadable
from app.files.exif import user_comment
from app.files.formats import FORMATS, JPEG, PNG, WEBP, Format, encode, open_image
from app.files.pictures import MAX_BYTES, MAX_PIXELS, MAX_TEXT, inspect, read_file
from tests import hostile

ROOT = Path(__file__).parents[2]
HOSTILE = hostile.pictures()


@pytest.mark.parametrize("quality", [None, 1, 60])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_whatever_we_write_is_read_as_pillow_reads_it(
    kind: Format, channels: int, quality: int | None
) -> None:
    for width, height in ((1, 1), (9, 7), (64, 200)):
        data = random.Random(1).randbytes(width * height * channels)
        for text in (None, hostile.TEXT, "\N{SNOWMAN}\nA: b"):
            content = encode(Pixels(width, height, channels, data), kind, text, quality)
            header = inspect(content)
            with Image.open(io.BytesIO(content)) as image:
                assert (header.format, header.width, header.height) == (image.format, *image.size)
            assert header.parameters == text
            assert header.lossless == (kind is PNG or (kind is WEBP and quality is None))
            assert open_image(content).image.size == (width, height)


@pytest.mark.parametrize("name", HOSTILE)
def test_what_would_unfold_is_refused_in_one_line(name: str) -> None:
    content, told = HOSTILE[name]
    for read in (inspect, open_image):
        with pytest.raises(Unreadable, match=told) as caught:
            read(content)
        assert len(str(caught.value)) < 120
        assert "\n" not in str(caught.value)


def test_eight_hostile_pictures_at_once_take_no_memory() -> None:
    """In a process of its own, whose largest size the system keeps."""
    code = """
import resource
from concurrent.futures import ThreadPoolExecutor
from app.files.formats import open_image
from tests import hostile

def refused(content):
    try:
        open_image(content)
    except ValueError:
        return True

def largest():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

pictures = hostile.pictures()
open_image(hostile.encode(hostile.GREY, hostile.WEBP))
before = largest()
with ThreadPoolExecutor(8) as pool:
    for content, _ in pictures.values():
        assert all(pool.map(refused, [content] * 8))
print(largest() - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert int(run.stdout) < 48, "MiB; one of 8192 x 8192 alone was 950"


def test_the_size_of_a_canvas_is_the_frames_to_the_decoder_too() -> None:
    """What makes a header of ours and its decoder agree: libwebp opens no other."""
    frame = hostile.webp_frame()
    for width, height in ((2, 2), (8, 9), (4000, 4000)):
        with pytest.raises(OSError, match="decoder"):
            WebPImagePlugin.WebPImageFile(
                io.BytesIO(hostile.webp_of(hostile.vp8x(width, height), frame))
            )


def test_a_picture_of_the_largest_size_is_read_and_none_of_one_pixel_more() -> None:
    side = 1 << 11
    assert side * side == MAX_PIXELS
    large = hostile.png_of(
        hostile.ihdr(side, side), hostile.idat(side * (side + 1)), (b"IEND", b"")
    )
    assert open_image(large).image.size == (side, side)
    more = hostile.png_of(hostile.ihdr(side + 1, side), hostile.idat(9), (b"IEND", b""))
    with pytest.raises(Unreadable, match="2049 x 2048 pixels; allowed: from 1 to 4194304"):
        inspect(more)


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_parameters_are_bounded_in_characters(kind: Format) -> None:
    for letter in ("x", "\N{SNOWMAN}", "\N{GRINNING FACE}"):
        content = encode(hostile.GREY, kind, letter * MAX_TEXT)
        assert inspect(content).parameters == letter * MAX_TEXT
        with pytest.raises(Unreadable, match="more than 12288 characters"):
            inspect(encode(hostile.GREY, kind, letter * (MAX_TEXT + 1)))


def test_a_text_is_found_wherever_pillow_finds_it() -> None:
    """Compressed or not, before the pixels or behind them, the last of several."""
    assert inspect(hostile.noted(hostile.TEXT, compressed=True)).parameters == hostile.TEXT
    head, *middle, end = hostile.png_chunks(encode(hostile.GREY, PNG))
    texts = [(b"tEXt", b"parameters\0" + text) for text in (b"one", b"two")]
    for chunks in ((head, *texts, *middle, end), (head, *middle, *texts, end)):
        content = hostile.png_of(*chunks)
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            assert inspect(content).parameters == image.info["parameters"] == "two"
    other = hostile.png_of(head, (b"tEXt", b"parametersX\0one"), *middle, end)
    assert inspect(other).parameters is None


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_the_comment_of_exif_is_read_in_either_byte_order(kind: Format) -> None:
    """As piexif writes it, which AUTOMATIC1111 uses."""
    text = "a caf\u00e9\nSteps: 20"
    comment = b"UNICODE\0" + text.encode("utf-16-be")
    for order, magic in ((">", b"MM\0*"), ("<", b"II*\0")):
        inner = struct.pack(order + "IHHHII", 8 + 18, 1, 0x9286, 7, len(comment), 26 + 18)
        exif = magic + struct.pack(order + "IHHHII", 8, 1, 0x8769, 4, 1, 26) + bytes(4) + inner[4:]
        exif += bytes(4) + comment
        assert user_comment(exif) == user_comment(b"Exif\0\0" + exif) == comment
        oracle = Image.Exif()
        oracle.load(exif)
        assert oracle.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] == comment
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, kind.name, exif=b"Exif\0\0" + exif)
        assert inspect(file.getvalue()).parameters == text


def test_exif_that_is_broken_says_nothing() -> None:
    good = b"MM\0*" + struct.pack(">IHHHII", 8, 1, 0x8769, 4, 1, 8)
    for broken in (b"", b"MM", b"MM\0*", good[:9], good, b"XX" + good):
        assert user_comment(broken) is None
    far = b"MM\0*" + struct.pack(">I", 2**32 - 1)
    assert user_comment(far) is None
    for entries in (1, 60_000):  # twice through them, and not once for each
        assert user_comment(hostile.tiff(entries)) is None


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_a_damaged_file_is_a_value_error_and_nothing_else(kind: Format) -> None:
    """Cut anywhere, or with a byte changed, or with some left out or said twice."""
    numbers = random.Random(7)
    whole = encode(Pixels(9, 7, 3, numbers.randbytes(9 * 7 * 3)), kind, hostile.TEXT)
    for _ in range(1500):
        start, length = numbers.randrange(len(whole)), numbers.randrange(1, 9)
        other = numbers.choice((b"", numbers.randbytes(length), whole[start : start + 2 * length]))
        content = whole[:start] + other + whole[start + numbers.choice((0, length, 10**6)) :]
        for read in (inspect, open_image):
            try:
                read(content)
            except ValueError as error:
                assert "0x" not in str(error)  # noqa: PT017


def test_other_forms_of_the_same_formats_are_read() -> None:
    """Interlaced is not written by Pillow; palettes, 16 bits and one bit are."""
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        file = io.BytesIO()
        Image.new(mode, (5, 3)).save(file, "PNG")
        assert open_image(file.getvalue()).image.size == (5, 3)
    for options in ({"restart_marker_blocks": 1}, {"optimize": True}, {"subsampling": 2}):
        file = io.BytesIO()
        Image.effect_noise((64, 64), 50).convert("RGB").save(file, "JPEG", **options)
        assert open_image(file.getvalue()).image.size == (64, 64)
        assert inspect(file.getvalue() + b"trailing").format == "JPEG"


def test_only_a_file_is_read_and_not_without_end(tmp_path: Path) -> None:
    assert JPEG.name == inspect(read_file(_written(tmp_path, encode(hostile.GREY, JPEG)))).format
    for path in (tmp_path, Path("/dev/zero"), tmp_path / "missing"):
        with pytest.raises(ValueError, match="not a regular file"):
            read_file(path)
    endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    for read in (lambda: read_file(endless), lambda: inspect(bytes(MAX_BYTES + 1))):
        with pytest.raises(Unreadable, match="more than 33554432 bytes"):
            read()


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "picture"
    path.write_bytes(content)
    return path
