"""A picture from a client: format, size and parameters, by the structure of the file alone.

No decoder runs here, and memory is allocated only for the parameters, so a file costs nothing
whatever size it claims. The supported forms are those that `images.encode` writes, from any writer:
PNG and WebP without animation, JPEG with one sequential scan.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from app.files.chunks import (
    JPEG_MAGIC,
    PNG_MAGIC,
    SCAN,
    Unreadable,
    damaged,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from app.files.exif import UNICODE, user_comment

MAX_PIXELS = 1 << 22
MAX_BYTES = 1 << 25  # 2^22 pixels of four bytes, that do not compress, and room for notes
# Characters of parameters: two prompts, and half as much beside them; in UTF-16 a JPEG's segment,
# which has 64 KiB, holds as many.
MAX_TEXT = 3 << 12
_TEXT = b"parameters"  # what AUTOMATIC1111 calls a PNG's text
_ANIMATED = "animations are not supported"


@dataclass(frozen=True)
class Header:
    """What the structure of a picture's file says about it."""

    format: str  # as Pillow calls it: PNG, WEBP or JPEG
    width: int
    height: int
    lossless: bool  # whether the file holds the very pixels it was made of
    parameters: str | None  # `MAX_TEXT` characters at most


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file; of a device or a pipe, which may have no end, nothing.

    Raises:
        Unreadable: it is no regular file, or has more than 32 MiB.
        OSError: it cannot be read.
    """
    if not path.is_file():
        raise Unreadable("this is not a regular file")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    _check_length(content)
    return content


def _check_length(content: bytes) -> None:
    if len(content) > MAX_BYTES:
        raise Unreadable(f"this picture has more than {MAX_BYTES} bytes")


def inspect(content: bytes) -> Header:
    """Read the structure of a PNG, WebP or JPEG from end to end.

    Raises:
        Unreadable: it is none of them, is damaged, is made in a way that is not read, has more than
            2^22 pixels, or its parameters have more than 12288 characters.
    """
    _check_length(content)
    try:
        if content.startswith(PNG_MAGIC):
            return _png(content)
        if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            return _webp(content)
        if content.startswith(JPEG_MAGIC):
            return _jpeg(content)
    except (struct.error, IndexError, zlib.error) as error:
        raise damaged("it ends early, or its parts are out of order") from error
    raise Unreadable("this is not a PNG, WebP or JPEG")


def _header(
    kind: str, size: tuple[int, int], lossless: bool, text: str | None, exif: bytes | None
) -> Header:
    width, height = size
    if not 0 < width * height <= MAX_PIXELS:
        raise Unreadable(f"{width} x {height} pixels; allowed: from 1 to {MAX_PIXELS} in all")
    if text is None and exif is not None:
        comment = user_comment(exif)
        if comment is not None and comment.startswith(UNICODE):
            bare = comment[len(UNICODE) :][: 4 * MAX_TEXT + 2]
            text = bare.decode("utf-16-be", errors="replace")
    if text is not None and len(text) > MAX_TEXT:
        raise Unreadable(f"its parameters have more than {MAX_TEXT} characters")
    return Header(kind, width, height, lossless, text)


def _png(content: bytes) -> Header:
    """https://www.w3.org/TR/png-3/."""
    size: tuple[int, int] | None = None
    text: str | None = None
    exif: bytes | None = None
    pixels = False
    for name, data in png_chunks(content):
        if (size is None) != (name == b"IHDR"):
            raise damaged("it has no header, or two")
        if name == b"IHDR":
            width, height = struct.unpack_from(">II", data)
            size = width, height
        elif name in (b"acTL", b"fcTL", b"fdAT"):
            raise Unreadable(_ANIMATED)
        elif name in (b"tEXt", b"zTXt", b"iTXt") and data.startswith(_TEXT + b"\0"):
            text = _png_text(name, data[len(_TEXT) + 1 :])
        elif name == b"eXIf":
            exif = data
        pixels = pixels or name == b"IDAT"
    if size is None or not pixels:
        raise damaged("it has no pixels")
    return _header("PNG", size, True, text, exif)


def _png_text(name: bytes, data: bytes) -> str:
    """What follows the keyword of a text chunk; 11.3.3 of the specification."""
    compressed, coding = name == b"zTXt", "latin-1"
    if compressed:
        data = data[1:]  # the method: there is one
    elif name == b"iTXt":
        compressed, coding = data[0] == 1, "utf-8"
        data = data[2:].split(b"\0", 2)[2]  # after the language, and the keyword in it
    most = 4 * MAX_TEXT + 1  # bytes of as many characters, and one
    if compressed:
        data = zlib.decompressobj().decompress(data, most)
    return data[:most].decode(coding, errors="replace")


def _webp(content: bytes) -> Header:
    """RFC 9649, 2; the sizes of frames: RFC 6386, 9.1, and RFC 9649, 3.4."""
    canvas: tuple[int, int] | None = None
    frame: tuple[int, int] | None = None
    exif: bytes | None = None
    lossless = False
    for name, data in webp_chunks(content):
        if name in (b"ANIM", b"ANMF") or (name == b"VP8X" and data[0] & 2):
            raise Unreadable(_ANIMATED)
        if name in (b"VP8X", b"VP8 ", b"VP8L") and (frame or (name == b"VP8X" and canvas)):
            raise damaged("it has two headers, or two frames")
        if name == b"VP8X":
            width, height = (int.from_bytes(data[k : k + 3], "little") + 1 for k in (4, 7))
            canvas = width, height
        elif name == b"VP8 ":
            code, width, height = struct.unpack_from("<3sHH", data, 3)
            if code != b"\x9d\x01\x2a" or data[0] & 1:
                raise damaged("its frame has an invalid start")
            frame = width & 0x3FFF, height & 0x3FFF
        elif name == b"VP8L":
            signature, bits = struct.unpack_from("<BI", data)
            if signature != 0x2F:
                raise damaged("its frame has an invalid start")
            frame, lossless = ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1), True
        elif name == b"EXIF":
            exif = data
    if frame is None or (canvas or frame) != frame:
        raise damaged("it has no frame, or one of another size than its canvas")
    return _header("WEBP", frame, lossless, None, exif)


_SEQUENTIAL = (0xC0, 0xC1)  # Huffman-coded; T.81, table B.1
_OTHER_FRAMES = frozenset(range(0xC2, 0xD0)) - {0xC4, 0xC8} | {0xDC, 0xDE, 0xDF}
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # that ends a scan


def _jpeg(content: bytes) -> Header:
    """ITU-T T.81, annex B."""
    size: tuple[int, int] | None = None
    components = 0
    exif: bytes | None = None
    for marker, data, end in jpeg_segments(content):
        if marker in _OTHER_FRAMES:
            raise Unreadable("only sequential JPEGs are supported")
        if marker in _SEQUENTIAL:
            if size is not None:
                raise damaged("it has two frames")
            _, height, width, components = struct.unpack_from(">BHHB", data)
            size = width, height
        elif marker == 0xE1 and data.startswith(b"Exif\0\0"):
            if exif is not None:  # Pillow would put them together, in quadratic time
                raise damaged("it has EXIF twice")
            exif = data
        elif marker == SCAN:
            _check_scan(content, end, whole=data[0] == components)
    if size is None:
        raise damaged("it has no frame")
    return _header("JPEG", size, False, None, exif)


def _check_scan(content: bytes, at: int, *, whole: bool) -> None:
    """That the scan whose data begins here has every component, and is the last."""
    end = _MARKER.search(content, at)
    if end is None:
        raise damaged("it ends early")
    if not whole or end[0] != b"\xff\xd9":
        raise Unreadable("JPEGs with several scans are not supported")
