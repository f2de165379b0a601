"""Grids of images as one PNG, to look at."""

from pathlib import Path

from PIL import Image
from torch import Tensor

from models.pipeline import to_uint8


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Images in [-1, 1], (N, C, H, W), row by row into a PNG."""
    rows = -(-len(images) // columns)
    channels, height, width = images.shape[1:]
    sheet = Image.new("L" if channels == 1 else "RGB", (columns * width, rows * height))
    for i, pixels in enumerate(to_uint8(images).cpu().numpy()):
        tile = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        sheet.paste(tile, (i % columns * width, i // columns * height))
    sheet.save(path)
