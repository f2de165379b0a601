"""Images to train on: idx files as MNIST's, or any folder of images with one sub-folder a class.

A data set lies in memory as uint8, (N, C, size, size): sixty thousand digits take 61 MB.
"""

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pooch
import torch
from PIL import Image, ImageOps
from torch import Tensor

from models.training.recipe import DataRecipe

Split = Literal["train", "test"]
_PREFIX = {"train": "train", "test": "t10k"}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class DataError(ValueError):
    """A data set is not there or not what it should be; the message names the file."""


@dataclass(frozen=True)
class IdxSource:
    """A published data set of four idx files: where from, how checked, what it holds."""

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: dict[str, str]
    licence: str


SOURCES = {
    "mnist": IdxSource(
        tuple(str(digit) for digit in range(10)),
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://raw.githubusercontent.com/fgnt/mnist/master/",
        ),
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
        "Yann LeCun and Corinna Cortes, CC BY-SA 3.0",
    ),
    "fashion-mnist": IdxSource(
        (
            "T-shirt",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        ("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",),
        {
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        },
        "Zalando SE, MIT",
    ),
}


@dataclass(frozen=True)
class Images:
    """One split: `pixels` uint8 (N, C, size, size), `labels` int64 (N,), class names by index."""

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def scaled(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """Pixels in [-1, 1], float32."""
        return self.pixels[indices].float() / 127.5 - 1


def default_folder() -> Path:
    """Where `darkroom data get` puts what it downloads."""
    return Path.home() / ".cache" / "darkroom"


def load(recipe: DataRecipe, data_dir: Path, split: Split) -> Images:
    """One split of a recipe's data, shuffled by nothing: in the order of the files.

    Raises:
        DataError: not there, truncated, or of the wrong kind; the message names the file.
    """
    if recipe.source in SOURCES:
        return _load_idx(recipe, data_dir / recipe.source, split)
    for folder in (data_dir / recipe.source, Path(recipe.source)):
        if folder.is_dir():
            return _load_folder(recipe, folder, split)
    raise DataError(
        f"{recipe.source}: no such data set; known: {', '.join(SOURCES)}, "
        "or a folder with one sub-folder of images a class"
    )


def download(name: str, data_dir: Path) -> Path:
    """Fetch a published data set, checking every file; what is there and whole stays.

    Raises:
        DataError: an unknown name, or no mirror gave the right bytes.
    """
    if name not in SOURCES:
        raise DataError(f"{name}: no such data set; known: {', '.join(SOURCES)}")
    source, folder = SOURCES[name], data_dir / name
    for file_name, digest in source.sha256.items():
        failures = []
        for mirror in source.mirrors:
            try:
                pooch.retrieve(mirror + file_name, f"sha256:{digest}", file_name, folder)
                break
            except (OSError, ValueError) as error:
                failures.append(f"{mirror}: {error}")
        else:
            raise DataError(f"{file_name}: no mirror gave it: {'; '.join(failures)}")
    return folder


def read_idx(path: Path) -> Tensor:
    """An idx file of unsigned bytes, gzipped or not; http://yann.lecun.com/exdb/mnist (archived).

    Raises:
        DataError: missing, truncated, or of another element type.
    """
    try:
        raw = path.read_bytes()
        if path.suffix == ".gz":
            raw = gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    if len(raw) < 4 or raw[:3] != b"\0\0\x08" or len(raw) < 4 + 4 * raw[3]:
        raise DataError(f"{path}: not an idx file of unsigned bytes")
    rank = raw[3]
    shape = [int(size) for size in np.frombuffer(raw, ">u4", count=rank, offset=4)]
    if len(raw) != 4 + 4 * rank + int(np.prod(shape)):
        raise DataError(f"{path}: {len(raw)} bytes do not hold {shape}")
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).copy()).view(shape)


def _load_idx(recipe: DataRecipe, folder: Path, split: Split) -> Images:
    pixels, labels = (
        read_idx(_idx_file(folder, f"{_PREFIX[split]}-{kind}-ubyte"))
        for kind in ("images-idx3", "labels-idx1")
    )
    if (pixels.dim(), labels.dim()) != (3, 1):
        raise DataError(f"{folder}: images of {pixels.dim()} dimensions, labels of {labels.dim()}")
    if len(pixels) != len(labels):
        raise DataError(f"{folder}: {len(pixels)} images and {len(labels)} labels")
    gap = recipe.size - pixels.shape[-1]
    if gap < 0:
        raise DataError(f"{folder}: images of {pixels.shape[-1]} pixels; size is {recipe.size}")
    padded = torch.nn.functional.pad(pixels, (gap // 2, gap - gap // 2) * 2)
    planes = padded[:, None].expand(-1, recipe.channels, -1, -1).contiguous()
    return Images(planes, labels.long(), SOURCES[recipe.source].classes)


def _idx_file(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise DataError(
        f"{folder / name}: not there; `darkroom data get {folder.name}` downloads it, "
        "--data-dir names the folder that holds it"
    )


def _load_folder(recipe: DataRecipe, folder: Path, split: Split) -> Images:
    """Sub-folders are classes, in order of name.

    A folder of just `train` and `test` comes split; of any other, one image in ten, chosen by its
    name, is held out.
    """
    classes = _sub_folders(folder)
    comes_split = set(classes) == {"train", "test"}
    if comes_split:
        if _sub_folders(folder / "train") != _sub_folders(folder / "test"):
            raise DataError(f"{folder}: train and test hold different classes")
        folder = folder / split
        classes = _sub_folders(folder)
    pixels, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).rglob("*")):
            if path.suffix.lower() not in _SUFFIXES:
                continue
            if comes_split or held_out(path.relative_to(folder)) == (split == "test"):
                pixels.append(_read_image(path, recipe))
                labels.append(label)
    types = ", ".join(_SUFFIXES)
    if not pixels:
        raise DataError(f"{folder}: no {split} images in sub-folders; types: {types}")
    present = set(labels)
    for label, name in enumerate(classes):
        if split == "train" and label not in present:
            raise DataError(f"{folder / name}: no images to train on; types: {types}")
    return Images(torch.stack(pixels), torch.tensor(labels), classes)


def _sub_folders(folder: Path) -> tuple[str, ...]:
    """Names in order; what tools leave behind (`.git`, `__MACOSX`) is no class."""
    found = (path.name for path in folder.iterdir() if path.is_dir())
    return tuple(sorted(name for name in found if not name.startswith((".", "__"))))


def held_out(path: Path) -> bool:
    """Whether an image, by its path inside the data set, is one of the tenth kept for testing."""
    return hashlib.sha256(path.as_posix().encode()).digest()[0] < 26


def _read_image(path: Path, recipe: DataRecipe) -> Tensor:
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            mode = "L" if recipe.channels == 1 else "RGB"
            fitted = ImageOps.fit(upright.convert(mode), (recipe.size, recipe.size))
            pixels = np.array(fitted)
    except (OSError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: not an image: {error}") from error
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(planes))
