"""Images to train on: idx files as MNIST's, or any folder of images with one sub-folder a class.

A data set lies in memory as uint8, (N, C, size, size): sixty thousand digits take 61 MB.
"""

import gzip
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pooch
import torch
from torch import Tensor

from models.training.decoding import Change, PictureError, read_picture
from models.training.folders import Picture, check_trained, hold_out, scan
from models.training.folders import held_out as held_out
from models.training.images import DataError as DataError
from models.training.images import DataSet, Images, counted, shown
from models.training.images import Split as Split
from models.training.options import DataRecipe

_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}
_MOST_NAMED = 20  # files in a message


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


def default_folder() -> Path:
    """Where `darkroom data get` puts what it downloads."""
    return Path.home() / ".cache" / "darkroom"


def load(recipe: DataRecipe, data_dir: Path, split: Split) -> Images:
    """One split of `load_both`."""
    both = load_both(recipe, data_dir)
    return both.train if split == "train" else both.test


def load_both(recipe: DataRecipe, data_dir: Path) -> DataSet:
    """A recipe's data, shuffled by nothing: in the order of the files.

    Raises:
        DataError: not there, truncated, or of the wrong kind; the message names the files.
    """
    folder = find_data(recipe, data_dir)
    if recipe.source in SOURCES:
        return DataSet(_load_idx(recipe, folder, "train"), _load_idx(recipe, folder, "test"))
    return _load_folder(recipe, folder)


def find_data(recipe: DataRecipe, data_dir: Path) -> Path:
    """The folder of a recipe's data; raises `DataError` where there is none."""
    if recipe.source in SOURCES:
        return data_dir / recipe.source
    for folder in (data_dir / recipe.source, Path(recipe.source).expanduser()):
        if folder.is_dir():
            return folder
    raise DataError(
        f"{recipe.source}: no such data set; known: {', '.join(SOURCES)}, "
        "or a folder with one sub-folder of images for each class"
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


def _load_folder(recipe: DataRecipe, folder: Path) -> DataSet:
    """Read all pictures, then hold some out where the folder has no split."""
    listing = scan(folder)
    read: dict[Path, Tensor] = {}
    failed: dict[str, str] = {}
    changes: Counter[Change] = Counter()
    for path, _ in (*listing.train, *listing.test):
        try:
            read[path], changed = read_picture(path, recipe)
            changes.update(changed)
        except PictureError as error:
            failed[path.relative_to(folder).as_posix()] = str(error)
    if failed and not recipe.skip_unreadable:
        raise DataError(_unreadable(folder, failed, len(read) + len(failed)))
    train, test = (
        [picture for picture in pictures if picture[0] in read]
        for pictures in (listing.train, listing.test)
    )
    check_trained(listing.root, listing.classes, train)
    if not test:
        train, test = hold_out(listing.root, train)

    def images(pictures: Sequence[Picture]) -> Images:
        labels = torch.tensor([label for _, label in pictures])
        return Images(torch.stack([read[path] for path, _ in pictures]), labels, listing.classes)

    said: dict[Change, str] = {
        "transparent": f"transparent, laid on {recipe.background}",
        "deep": "of 16-bit grey, scaled to 8 bits",
        "greyed": "of colour, read as grey (channels = 3 keeps it)",
    }
    passed_over = [*listing.passed_over, *failed]
    counts = {text: changes[kind] for kind, text in said.items() if changes[kind]}
    return DataSet(images(train), images(test), passed_over, counts)


def _unreadable(folder: Path, failed: dict[str, str], count: int) -> str:
    named = "; ".join(f"{shown(name)}: {why}" for name, why in [*failed.items()][:_MOST_NAMED])
    more = f"; and {len(failed) - _MOST_NAMED} more" if len(failed) > _MOST_NAMED else ""
    return (
        f"{folder}: {len(failed)} of {counted(count, 'image')} cannot be read: {named}{more}. "
        "Mend or remove them, or set skip_unreadable = true under [data] to pass over them"
    )
