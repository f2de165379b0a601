"""One tag of EXIF, the user's comment, from its bytes.

Nothing else is read: Pillow warns of every broken tag, thousands in a hostile file. EXIF 2.3 (CIPA
DC-008-2012), whose structure is TIFF 6.0's.
"""

import struct
from collections.abc import Collection

_PREFIX = b"Exif\0\0"  # before the TIFF header, in a JPEG always and in a WebP now and then
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_BYTE, _LONG, _UNDEFINED, _IFD = 1, 4, 7, 13
_SIZES = {_BYTE: 1, _LONG: 4, _UNDEFINED: 1, _IFD: 4}  # bytes of an item
UNICODE = b"UNICODE\0"  # how a comment begins that is UTF-16; EXIF 2.3, 4.6.5


def user_comment(exif: bytes) -> bytes | None:
    """The comment with its eight bytes of character code, if there is one."""
    exif = exif.removeprefix(_PREFIX)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return None
    (outer,) = struct.unpack_from(order + "I", exif, 4)
    inner = _value(exif, order, outer, _EXIF_IFD, (_LONG, _IFD))
    if inner is None or len(inner) != 4:
        return None
    (place,) = struct.unpack(order + "I", inner)
    return _value(exif, order, place, _USER_COMMENT, (_BYTE, _UNDEFINED))


def _value(
    exif: bytes, order: str, directory: int, wanted: int, kinds: Collection[int]
) -> bytes | None:
    """The bytes of the first such tag of a directory; those beyond the end are left out."""
    if directory + 2 > len(exif):
        return None
    (count,) = struct.unpack_from(order + "H", exif, directory)
    first = directory + 2
    for entry in range(first, min(first + 12 * count, len(exif) - 11), 12):
        tag, kind, items = struct.unpack_from(order + "HHI", exif, entry)
        if tag == wanted and kind in kinds:
            size = _SIZES[kind] * items
            start = entry + 8 if size <= 4 else struct.unpack_from(order + "I", exif, entry + 8)[0]
            return exif[start : start + size]
    return None
