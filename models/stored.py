"""The tensors of a network: where each is stored and how it is made of that, read with checks."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError
from models.tensor_file import Entry, Part, TensorFile, Wanted, part_shape


class Stored(NamedTuple):
    """Where a tensor of a network is, and how it is made of what is stored."""

    path: Path
    name: str
    part: Part = Part()
    transposed: bool = False


def read_tensors(
    source: Path,
    stored: Mapping[str, Stored],
    expected: Mapping[str, Tensor],
    device: torch.device | str,
    dtype: torch.dtype,
    opening: Callable[[Path], TensorFile] = TensorFile.open,
) -> dict[str, Tensor]:
    """Exactly the tensors that are expected, one after another straight to a device and dtype.

    Args:
        source: what a message names if a tensor is missing.
        stored: where each is, by its name in the network.
        expected: tensors of the shapes that are needed; they may be on the meta device.
        device, dtype: of what is returned.
        opening: how each file is opened.

    Raises:
        CheckpointError: as `read_weights`.
    """
    files = check_tensors(source, stored, expected, opening)
    tensors = {}
    for path, file in files.items():
        here = [(name, at) for name, at in stored.items() if at.path == path]
        here.sort(key=lambda pair: file.entries[pair[1].name].start)
        read = file.read(Wanted(at.name, at.part) for _, at in here)
        for (name, at), tensor in zip(here, read, strict=True):
            made = (tensor.t() if at.transposed else tensor).reshape(expected[name].shape)
            tensors[name] = made.to(device=device, dtype=dtype).contiguous()
    return tensors


def check_tensors(
    source: Path,
    stored: Mapping[str, Stored],
    expected: Mapping[str, Tensor],
    opening: Callable[[Path], TensorFile] = TensorFile.open,
) -> dict[Path, TensorFile]:
    """The files, in order of their paths, if `read_tensors` can read them; no data is read.

    Raises:
        CheckpointError: a tensor is missing, unknown, misshapen or of another type.
    """
    if missing := sorted(expected.keys() - stored.keys()):
        raise CheckpointError(f"{source}: missing tensor {missing[0]!r}{_more(missing)}")
    if extra := sorted((stored[name].name, name) for name in stored.keys() - expected.keys()):
        path = stored[extra[0][1]].path
        raise CheckpointError(f"{path}: unknown tensor {brief(extra[0][0])}{_more(extra)}")
    parts: dict[Path, dict[str, Stored]] = {}
    for name, at in stored.items():
        parts.setdefault(at.path, {})[name] = at
    return {path: _checked(opening(path), parts[path], expected) for path in sorted(parts)}


def _checked(
    file: TensorFile, wanted: Mapping[str, Stored], expected: Mapping[str, Tensor]
) -> TensorFile:
    """The file, if its header has each tensor in its form."""
    for name, at in wanted.items():
        _check_shape(file, at, file.check_form(at.name), name, tuple(expected[name].shape))
    return file


def _check_shape(
    file: TensorFile, at: Stored, entry: Entry, name: str, shape: tuple[int, ...]
) -> None:
    found = part_shape(entry.shape, at.part)
    found = found[::-1] if at.transposed else found
    if ".attentions." in name and len(found) >= 2 and set(found[2:] + shape[2:]) <= {1}:
        found, shape = found[:2], shape[:2]  # a convolution of one position is a linear map
    if found != shape:
        raise CheckpointError(
            f"{file.path}: tensor {at.name!r} has shape {brief(list(entry.shape))}; "
            f"{_whole(shape, at)} needed"
        )


def _whole(shape: tuple[int, ...], at: Stored) -> list[int]:
    """The shape of the stored tensor that one of the network is made of."""
    stored = shape[::-1] if at.transposed else shape
    return [stored[0] * at.part.of, *stored[1:]] if at.part.of > 1 else list(stored)


def _more(names: Sequence[object]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
