"""One picture file -> pixels of the recipe's size and channels."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError
from torch import Tensor

from models.training.options import DataRecipe

# What such a name stands for is a picture: it is read, or named as one that cannot be.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".apng", ".dib"),
    *(".heic", ".heif", ".jxl", ".svg", ".psd", ".dng", ".cr2", ".cr3", ".nef", ".arw"),
)
# By content, whatever the suffix says; none of them starts another program, as EPS does.
_FORMATS = (
    *("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "TGA", "JPEG2000", "MPO"),
)
Change = Literal["transparent", "deep", "greyed"]  # laid on a ground; of 16 bits; of colour
_MOST_LETTERS = 80  # of a reason


class PictureError(ValueError):
    """A picture cannot be read; the message says why and does not name it."""


def readable() -> list[str]:
    """The suffixes of `SUFFIXES` that Pillow reads as it is installed here."""
    formats, known = _formats(), Image.registered_extensions()
    return [suffix for suffix in SUFFIXES if known.get(suffix) in formats]


def _formats() -> list[str]:
    Image.init()  # formats that are asked for by name are not looked for otherwise
    return [name for name in _FORMATS if name in Image.OPEN]


def read_picture(path: Path, recipe: DataRecipe) -> tuple[Tensor, frozenset[Change]]:
    """The first frame, upright, cropped to a square: uint8, (C, size, size); and what was changed.

    Transparent pixels are laid on `recipe.background`, 16-bit grey is scaled.

    Raises:
        PictureError: not a picture, broken, or with pixels that have no fixed range.
    """
    try:
        with Image.open(path, formats=_formats()) as image:
            upright = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        known = path.suffix.lower() in readable()
        kind = "not an image" if known else f"Pillow reads no {path.suffix.lower()} files here"
        raise PictureError(kind) from error
    except Exception as error:  # decoders raise what they like at broken files, IndexError and all
        raise PictureError(_reason(error)) from error
    try:
        pixels, changes = _pixels(upright, recipe)
    except ValueError as error:
        raise PictureError(_reason(error)) from error
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes)), changes


def _pixels(image: Image.Image, recipe: DataRecipe) -> tuple[NDArray[np.uint8], frozenset[Change]]:
    changes: set[Change] = set()
    if image.mode.startswith("I"):
        image = _eight_bits(image)
        changes.add("deep")
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; save it with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if _lowest(rgba.getchannel("A")) < 255:
            changes.add("transparent")
        ground = Image.new("RGBA", rgba.size, ImageColor.getrgb(recipe.background))
        image = Image.alpha_composite(ground, rgba).convert("RGB")
    elif image.mode not in ("1", "L"):
        image = image.convert("RGB")
    if recipe.channels == 1 and image.mode == "RGB" and _has_colour(image):
        changes.add("greyed")
    fitted = ImageOps.fit(
        image.convert("L" if recipe.channels == 1 else "RGB"), (recipe.size, recipe.size)
    )
    return np.array(fitted), frozenset(changes)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 0 to 65,535 as 0 to 255, with the value that a PNG names transparent as alpha."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65_535:
        raise ValueError("grey values outside 0 to 65535 have no fixed range; save it with 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    clear = image.info.get("transparency")
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return grey


def _lowest(plane: Image.Image) -> int:
    low, _ = plane.getextrema()
    assert isinstance(low, int)
    return low


def _has_colour(image: Image.Image) -> bool:
    """Whether the three channels differ anywhere, by a sample of the pixels."""
    small = np.asarray(image.resize((16, 16))).astype(np.int16)
    return bool((np.ptp(small, axis=2) > 8).any())


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 3]}..."
