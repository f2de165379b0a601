"""Pictures that promise more than they hold, built chunk by chunk."""

import io
import struct
import zlib

from PIL import Image, PngImagePlugin

from app.engine.results import Pixels
from app.files.formats import JPEG, WEBP, encode

GREY = Pixels(8, 8, 1, bytes(64))
TEXT = "a\nSteps: 2, Seed: 1"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    return PNG_MAGIC + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    at, chunks = len(PNG_MAGIC), []
    while at < len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        chunks.append((name, content[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def ihdr(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)


def idat(size: int) -> tuple[bytes, bytes]:
    """So many zeros, a thousand times smaller."""
    return b"IDAT", zlib.compress(bytes(size), 9)


def noted(text: str, *, compressed: bool = False) -> bytes:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("parameters", text, zip=compressed)
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "PNG", pnginfo=notes)
    return file.getvalue()


def webp_of(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"WEBP" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


def vp8x(width: int, height: int, flags: int = 0) -> tuple[bytes, bytes]:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X", bytes([flags, 0, 0, 0]) + canvas


def vp8l(width: int, height: int) -> tuple[bytes, bytes]:
    """A header, and a little of what would follow."""
    return b"VP8L", b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(15)


def vp8(width: int, height: int) -> tuple[bytes, bytes]:
    return b"VP8 ", b"\x10\x02\x00\x9d\x01\x2a" + struct.pack("<HH", width, height) + bytes(12)


def webp_frame() -> tuple[bytes, bytes]:
    """The one chunk of an 8 x 8 picture."""
    content = encode(GREY, WEBP)
    return content[12:16], content[20 : 20 + struct.unpack_from("<I", content, 16)[0]]


def scans(count: int, width: int = 4000, height: int = 4000) -> bytes:
    """A progressive JPEG that refines the same coefficients over and over."""
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    starts = [k for k in range(len(content)) if content[k : k + 2] == b"\xff\xda"]
    return content[: starts[1]] + content[starts[1] : starts[2]] * count + b"\xff\xd9"


def resized(jpeg: bytes, width: int, height: int) -> bytes:
    """A baseline JPEG that says another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def segment(marker: int, data: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def tiff(entries: int) -> bytes:
    """EXIF, every entry of which leads back to the directory it is in."""
    shared = struct.pack(">HHII", 0x8769, 4, 1, 8) * entries
    return b"MM\0*" + struct.pack(">IH", 8, entries) + shared + bytes(4)


def pictures() -> dict[str, tuple[bytes, str]]:
    """Name -> content that is not to be read, and what is told of it."""
    jpeg, frame = encode(GREY, JPEG), webp_frame()
    end, pixels = (b"IEND", b""), idat(72)
    other_frame = segment(0xC0, b"\x08" + struct.pack(">HHB", 60_000, 60_000, 1) + b"\x01\x11\0")
    exif = segment(0xE1, b"Exif\0\0" + tiff(1))
    by_reason = {
        "pixels; allowed: from 1 to 4194304 in all": {
            "PNG, 30000 x 30000": png_of(ihdr(30_000, 30_000), idat(10**7), end),
            "PNG, width 0": png_of(ihdr(0, 8), pixels, end),
            "WebP, lossless 8192 x 8192": webp_of(vp8l(8192, 8192)),
            "WebP, lossy 8192 x 8192": webp_of(vp8(8192, 8192)),
            "WebP, canvas and frame 8192 x 8192": webp_of(vp8x(8192, 8192), vp8l(8192, 8192)),
            "JPEG, 65535 x 65535": resized(jpeg, 65_535, 65_535),
            "JPEG, no height": resized(jpeg, 8, 0),
        },
        "damaged: it has no header, or two": {
            "PNG, two headers": png_of(ihdr(8, 8), ihdr(30_000, 30_000), pixels, end),
            "PNG, no header": png_of(pixels, end),
            "PNG, header last": png_of(pixels, ihdr(8, 8), end),
        },
        "damaged: it has no pixels": {"PNG, no pixels": png_of(ihdr(8, 8), end)},
        "more than 4096 parts": {
            "PNG, 10000 chunks": png_of(ihdr(8, 8), *[(b"teST", b"")] * 9_999, pixels, end),
            "WebP, 10000 chunks": webp_of(vp8x(8, 8), *[(b"teST", b"")] * 9_999, frame),
            "JPEG, 10000 segments": jpeg[:2] + segment(0xFE, b"") * 9_999 + jpeg[2:],
        },
        "its parameters have more than 12288 characters": {
            "PNG, text that unfolds": noted("a\nb: " + " " * 10**7, compressed=True),
            "PNG, long text": noted("x" * 13_000),
        },
        "animations are not supported": {
            "PNG, animated": png_of(ihdr(8, 8), (b"acTL", bytes(8)), pixels, end),
            "PNG, frames in it": png_of(ihdr(8, 8), pixels, (b"fdAT", bytes(8)), end),
            "WebP, animated": webp_of(vp8x(8, 8, flags=2), frame),
            "WebP, frames in it": webp_of(vp8x(8, 8), (b"ANMF", bytes(16)), frame),
        },
        "no frame, or one of another size than its canvas": {
            "WebP, canvas 8192 x 8192": webp_of(vp8x(8192, 8192), frame),
            "WebP, canvas 2 x 2": webp_of(vp8x(2, 2), frame),
            "WebP, frame 8192 x 8192": webp_of(vp8x(8, 8), vp8l(8192, 8192)),
            "WebP, no frame": webp_of(vp8x(8, 8)),
        },
        "damaged: it has two headers, or two frames": {
            "WebP, two frames": webp_of(frame, vp8l(8192, 8192)),
            "WebP, two canvases": webp_of(vp8x(8, 8), vp8x(8192, 8192), frame),
            "WebP, canvas last": webp_of(frame, vp8x(8192, 8192)),
        },
        "only sequential JPEGs are supported": {
            "JPEG, 400 scans": scans(400),
            "JPEG, progressive": scans(1, 8, 8),
            "JPEG, arithmetic": jpeg.replace(b"\xff\xc0", b"\xff\xc9"),
            "JPEG, lossless": jpeg.replace(b"\xff\xc0", b"\xff\xc3"),
        },
        "JPEGs with several scans are not supported": {
            "JPEG, another in its scan": jpeg[:-2] + jpeg[2:],
        },
        "damaged: it has two frames": {"JPEG, two frames": jpeg[:2] + other_frame + jpeg[2:]},
        "damaged: it has EXIF twice": {"JPEG, EXIF in two": jpeg[:2] + exif * 2 + jpeg[2:]},
        "damaged: it ends early": {
            "PNG, no end": png_of(ihdr(8, 8), pixels),
            "WebP, no end": webp_of(frame)[:-4],
            "JPEG, no end": jpeg[:-2],
        },
        "this is not a PNG, WebP or JPEG": {"GIF": b"GIF89a" + bytes(40), "nothing": b""},
    }
    return {
        name: (content, told)
        for told, named in by_reason.items()
        for name, content in named.items()
    }
