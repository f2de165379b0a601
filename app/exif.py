"""One tag of EXIF, the user's comment, from its bytes.

Nothing else is looked at: Pillow warns of every tag that is broken, thousands in a hostile file.
EXIF 2.3 (CIPA DC-008-2012), whose structure is TIFF 6.0's.
"""

import struct
from collections.abc import Iterator

_PREFIX = b"Exif\0\0"  # before the TIFF header, in a JPEG always and in a WebP now and then
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_BYTE, _UNDEFINED = 1, 7
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
UNICODE = b"UNICODE\0"  # how a comment begins that is UTF-16; EXIF 2.3, 4.6.5


def user_comment(exif: bytes) -> bytes | None:
    """The comment with its eight bytes of character code, if there is one."""
    exif = exif.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    (first,) = struct.unpack_from(order + "I", exif, 4)
    for tag, _, value in _tags(exif, order, first):
        if tag == _EXIF_IFD and len(value) == 4:
            (inner,) = struct.unpack(order + "I", value)
            for name, kind, comment in _tags(exif, order, inner):
                if name == _USER_COMMENT and kind in (_BYTE, _UNDEFINED):
                    return comment
    return None


def _tags(exif: bytes, order: str, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Tag, type and value of every entry of one directory, as far as the bytes go."""
    if at + 2 > len(exif):
        return
    (count,) = struct.unpack_from(order + "H", exif, at)
    for entry in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, items = struct.unpack_from(order + "HHI", exif, entry)
        size = _SIZES.get(kind, 0) * items
        start = entry + 8 if size <= 4 else struct.unpack_from(order + "I", exif, entry + 8)[0]
        yield tag, kind, exif[start : start + size]
