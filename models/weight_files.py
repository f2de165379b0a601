"""The weights of one network in its folder, read with checks."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError, check_inside, read_json
from models.stored import Stored, check_tensors, read_tensors
from models.tensor_file import MAX_HEADER_BYTES, MAX_WEIGHT_BYTES, Entry, TensorFile
from models.weight_names import NETWORK, SAFETENSORS, TEXT, is_index, shards, source

WEIGHTS = f"{NETWORK}{SAFETENSORS}"
# Attention as early diffusers named it; Rombach et al.'s files have 1x1 convolutions in it.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OUTER = "text_model."  # transformers has left it out of CLIPTextModel's names since 5.6
# What CLIP's files have besides the weights that a text encoder computes with.
_PASSED = re.compile(r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale")


@dataclass(frozen=True)
class FolderWeights:
    """The weights of one network: its folder, and how its files are called."""

    folder: Path
    stem: str = NETWORK

    def read(
        self, expected: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Exactly the tensors that are expected; see `read_weights`."""
        return read_weights(self.folder, expected, device, dtype, self.stem)

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Raise `CheckpointError` unless `read` finds what is expected; no data is read."""
        stored, opening = _find(self.folder, expected, self.stem)
        check_tensors(self.folder, stored, expected, opening)

    def entries(self) -> list[Entry]:
        """What headers say of every tensor; raises `CheckpointError` as `weight_files`."""
        files = [path for path in weight_files(self.folder, self.stem) if not is_index(path.name)]
        return [entry for path in files for entry in open_weights(path).entries.values()]


def weight_source(folder: Path, stem: str = NETWORK) -> Path:
    """The file that holds a network's weights, or the index of the files that do.

    Args:
        folder: of the component.
        stem: how the files are called, `NETWORK` or `TEXT`.

    Raises:
        CheckpointError: as `source`.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError:  # reported as a missing file
        names = set()
    return folder / source(stem, names, str(folder))


def weight_files(folder: Path, stem: str = NETWORK) -> list[Path]:
    """The files that hold a network's weights, in order of name, including their index.

    Raises:
        CheckpointError: as `weight_source`; or the index is wrong.
    """
    found = weight_source(folder, stem)
    return sorted({found, *_shards(found).values()}) if is_index(found.name) else [found]


def read_weights(
    folder: Path,
    expected: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
    stem: str = NETWORK,
) -> dict[str, Tensor]:
    """Exactly the tensors that are expected, by name and shape, on a device.

    Attention may have the names that it had in early diffusers, and the shapes of 1x1 convolutions.
    Text encoders may have more than is needed, as in transformers.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown or pickled, before any of
            it is read; the message names the file and the tensor.
    """
    stored, opening = _find(folder, expected, stem)
    return read_tensors(folder, stored, expected, device, dtype, opening)


def open_weights(path: Path, most: int = MAX_WEIGHT_BYTES) -> TensorFile:
    """A file of a model folder, of at most `most` bytes, complete by its header; no data is read.

    Raises:
        CheckpointError: as `TensorFile.open`; or it is outside of the folder.
    """
    file = TensorFile.open(path, most)
    check_inside(path)
    return file


def _find(
    folder: Path, expected: Mapping[str, Tensor], stem: str
) -> tuple[dict[str, Stored], Callable[[Path], TensorFile]]:
    """Where the tensors of a folder are, and how its files are opened, of a size that is needed."""
    most = 8 * sum(tensor.numel() for tensor in expected.values()) + MAX_HEADER_BYTES
    found = weight_source(folder, stem)
    if is_index(found.name):
        place = _shards(found)
    else:
        place = dict.fromkeys(open_weights(found, most).entries, found)
    if stem == TEXT:
        place = {n: at for n, at in place.items() if n in expected or not _PASSED.fullmatch(n)}
    return _by_present_name(place, expected), partial(open_weights, most=most)


def _by_present_name(
    place: Mapping[str, Path], expected: Mapping[str, Tensor]
) -> dict[str, Stored]:
    """The names of tensors now -> where they are, by their names in the files."""
    stored: dict[str, Stored] = {}
    for name, path in place.items():
        present = next((now for now in _present_names(name) if now in expected), name)
        if present in stored:
            raise CheckpointError(
                f"{path}: tensor {brief(present)} comes twice, once by its old name"
            )
        stored[present] = Stored(path, name)
    return stored


def _present_names(name: str) -> Iterator[str]:
    yield name
    head, _, kind = name.rpartition(".")
    block, _, layer = head.rpartition(".")
    if layer in _RENAMED:
        yield f"{block}.{_RENAMED[layer]}.{kind}"
    yield name.removeprefix(_OUTER) if name.startswith(_OUTER) else _OUTER + name


def _shards(index: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, as the index says."""
    named = shards(str(index), read_json(index))
    return {tensor: index.parent / name for tensor, name in named.items()}
