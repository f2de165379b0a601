"""What tells one model from another: a digest of the files that its pixels depend on."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from models.files import read_bytes, read_json
from models.index import INDEX, ModelIndex
from models.parts import CONFIG, SCHEDULE
from models.sampling import Prediction
from models.tensor_file import TensorFile
from models.text.tokenizer_files import MAX_BYTES, tokenizer_files
from models.weight_files import open_weights, weight_files
from models.weight_names import TEXT


def weights_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, over the weights of one network, in order of file name."""
    return _digest([path for path in weight_files(folder) if path.suffix == ".safetensors"])


def checkpoint_digest(place: Path, prediction: Prediction | None = None) -> str:
    """SHA-256, in hexadecimal, over all that an image's pixels depend on in a model.

    Those are the files that a folder is opened from, in order of component and name; others are not
    read. Of a single file, it is the file, and what its UNet was said to predict.

    Raises:
        CheckpointError: one of these is missing, or not of its kind.
    """
    if place.is_file():
        return _digest([place], TensorFile.open, said=prediction or "")
    index = ModelIndex.read(place)
    files = [place / SCHEDULE]
    for network in (place / "unet", place / index.vae):
        files += sorted([network / CONFIG, *weight_files(network)])
    if index.texts:
        files.append(place / INDEX)
    for text in index.texts:
        encoder = place / text.folder
        files += sorted([encoder / CONFIG, *weight_files(encoder, TEXT)])
        files += tokenizer_files(place / text.tokenizer)
    return _digest(files)


def _digest(
    paths: Sequence[Path],
    opening: Callable[[Path], TensorFile] = open_weights,
    *,
    said: str = "",
) -> str:
    digest = hashlib.sha256(said.encode())
    for path in paths:
        if path.suffix == ".safetensors":
            opening(path)
        elif path.suffix == ".json":
            read_json(path, MAX_BYTES)
        else:
            read_bytes(path, MAX_BYTES)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()
