"""The class sheet in a model folder: `classes.png`, one row with one image of each class.

It is in order of class index, and each cell has the model's own size. Standard library only.
"""

import struct
from pathlib import Path

from models.files import CheckpointError, read_bytes

SHEET = "classes.png"
MAX_BYTES, MAX_PIXELS = 4 << 20, 1 << 22
_START = struct.Struct(">8sI4sII")  # of a PNG: https://www.w3.org/TR/png-3/, 5.2 and 11.2.1
_END = b"\0\0\0\0IEND\xaeB`\x82"


def sheet_size(classes: int, width: int, height: int) -> tuple[int, int]:
    """Width and height in pixels of the sheet for so many classes of this image size.

    Raises:
        ValueError: there are no classes, or so many that the sheet would have over 2^22 pixels.
    """
    if not classes:
        raise ValueError("a model without classes has no class sheet")
    if classes * width * height > MAX_PIXELS:
        raise ValueError(
            f"the class sheet would have {classes * width * height:,} pixels; "
            f"allowed: up to {MAX_PIXELS:,}"
        )
    return classes * width, height


def read_sheet(place: Path, classes: int, width: int, height: int) -> bytes | None:
    """The class sheet of a model, of which nothing is decoded; None if there is none.

    Raises:
        CheckpointError: it is no PNG of the size that the model's classes need, has more than
            4 MiB, or cannot be read.
    """
    path = place / SHEET
    if not classes or not place.is_dir() or not path.exists():
        return None
    try:
        wanted = sheet_size(classes, width, height)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error
    content = read_bytes(path, MAX_BYTES)
    if len(content) < _START.size or not content.endswith(_END):
        raise CheckpointError(f"{path}: is no whole PNG")
    magic, _, name, *found = _START.unpack_from(content)
    if magic != b"\x89PNG\r\n\x1a\n" or name != b"IHDR":
        raise CheckpointError(f"{path}: is no PNG")
    if tuple(found) != wanted:
        raise CheckpointError(
            f"{path}: is {found[0]}x{found[1]}; {classes} classes of {width}x{height} need "
            f"{wanted[0]}x{wanted[1]}"
        )
    return content
