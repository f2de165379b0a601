"""Picture files -> their parts, in order, each with its type; none is decoded.

PNG: https://www.w3.org/TR/png-3/, 5.3. WebP: RFC 9649, 2.3. JPEG: ITU-T T.81, B.1.1.
"""

import struct
import zlib
from collections.abc import Iterator

_MOST_PARTS = 4096  # a PNG of 32 MiB in chunks of 8 KiB
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # JPEG's markers without a segment
SCAN = 0xDA


class Unreadable(ValueError):
    """The picture cannot be read here; the message says why in one line."""


def damaged(why: str) -> Unreadable:
    """A file that breaks the rules of its own format."""
    return Unreadable(f"this picture is damaged: {why}")


def png_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of every chunk, up to the last; raises `Unreadable` or `struct.error`."""
    at = len(PNG_MAGIC)
    for _ in range(_MOST_PARTS):
        length, name = struct.unpack_from(">I4s", content, at)
        data = content[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, at + 8 + length)
        if checksum != zlib.crc32(data, zlib.crc32(name)):
            raise damaged("a checksum is wrong")
        yield name, data
        if name == b"IEND":
            return
        at += 12 + length
    raise _too_many()


def webp_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and data of every chunk; raises `Unreadable` or `struct.error`."""
    (size,) = struct.unpack_from("<I", content, 4)
    at, end = 12, 8 + size
    for _ in range(_MOST_PARTS):
        if at >= end:
            return
        name, length = struct.unpack_from("<4sI", content, at)
        if at + 8 + length > min(end, len(content)):
            raise damaged("it ends early")
        yield name, content[at + 8 : at + 8 + length]
        at += 8 + length + length % 2
    raise _too_many()


def jpeg_segments(content: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Marker, data and end of every segment, up to the first scan's.

    Raises `Unreadable`, `struct.error` or `IndexError`.
    """
    at = len(JPEG_MAGIC)
    for _ in range(_MOST_PARTS):
        if content[at] != 0xFF:
            raise damaged("a marker is missing")
        marker = content[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        (length,) = struct.unpack_from(">H", content, at + 2)
        if marker in _ALONE or length < 2:
            raise damaged("a marker is out of place")
        end = at + 2 + length
        yield marker, content[at + 4 : end], end
        if marker == SCAN:
            return
        at = end
    raise _too_many()


def _too_many() -> Unreadable:
    return Unreadable(f"this picture has more than {_MOST_PARTS} parts")
