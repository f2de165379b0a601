"""The weights of one network: which files hold them, and reading them against what is needed.

Safetensors, never pickle. One file, or several and an index that names the file of every tensor.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError, check_regular, read_json
from models.memory import MAX_PARAMETERS

WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHARDS = f"{WEIGHTS}.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_DTYPES = ("F64", "F32", "F16", "BF16")
_MAX_HEADER_BYTES = 4 << 20  # 10,000 tensors take 1 MiB; safetensors would parse 100 MB
MAX_WEIGHT_BYTES = 8 * MAX_PARAMETERS + _MAX_HEADER_BYTES


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a network's weights, in order of name, their index among them.

    Raises:
        CheckpointError: there are none, or the index is wrong.
    """
    if os.path.lexists(folder / WEIGHTS):
        return [folder / WEIGHTS]
    return sorted({folder / _SHARDS, *_shards(folder).values()})


def read_weights(
    folder: Path, expected: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Exactly the tensors that are expected, by name and shape, on a device.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown or pickled, before much of
            it is read; the message names the file and the tensor.
    """
    most = 8 * sum(tensor.numel() for tensor in expected.values()) + _MAX_HEADER_BYTES
    single = folder / WEIGHTS
    if os.path.lexists(single):
        with open_weights(single, most) as file:
            place = dict.fromkeys(file.keys(), single)
    else:
        place = _shards(folder)
    if missing := sorted(expected.keys() - place.keys()):
        raise CheckpointError(f"{folder}: missing tensor {missing[0]!r}{_more(missing)}")
    if extra := sorted(place.keys() - expected.keys()):
        raise CheckpointError(f"{place[extra[0]]}: unknown tensor {brief(extra[0])}{_more(extra)}")
    parts: dict[Path, list[str]] = {}
    for name, path in place.items():
        parts.setdefault(path, []).append(name)
    tensors = {}
    for path, names in sorted(parts.items()):
        with open_weights(path, most) as file:
            held = set(file.keys())
            for name in names:
                if name not in held:
                    raise CheckpointError(f"{path}: missing tensor {name!r}")
                _check_form(path, name, file.get_slice(name), list(expected[name].shape))
                tensors[name] = file.get_tensor(name).to(device=device, dtype=dtype)
    return tensors


def open_weights(path: Path, most: int = MAX_WEIGHT_BYTES) -> Any:
    """A safetensors file of at most so many bytes, whole by its header; no data is read.

    Raises:
        CheckpointError: it is missing, another kind of file, too large, or truncated.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: missing")
    if not check_regular(path, most):  # not to be read: the kernel's files are empty and may wait
        raise CheckpointError(f"{path}: not a whole safetensors file: it is empty")
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > _MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path}: not a whole safetensors file: a header of {header:,} bytes; "
                f"allowed: up to {_MAX_HEADER_BYTES:,}"
            )
        return safe_open(path, framework="pt", device="cpu")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a whole safetensors file: {brief(error)}") from error


def _check_form(path: Path, name: str, held: Any, shape: list[int]) -> None:
    if held.get_shape() != shape:
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {brief(held.get_shape())}; {shape} needed"
        )
    if held.get_dtype() not in _DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name!r} is {held.get_dtype()}; allowed: {', '.join(_DTYPES)}"
        )


def _shards(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, as the index says."""
    index = folder / _SHARDS
    if not os.path.lexists(index):
        raise CheckpointError(_no_weights(folder))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map is missing")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise CheckpointError(
                f"{index}: weight_map {brief(tensor)} is not a file name: {brief(name)}; "
                "allowed: *.safetensors, in the same folder"
            )
    return {tensor: folder / name for tensor, name in weight_map.items()}


def _is_file_name(name: str) -> bool:
    plain = name.isprintable() and "/" not in name and Path(name).name == name
    return plain and name.endswith(".safetensors") and len(name) <= 128


def _no_weights(folder: Path) -> str:
    if pickles := sorted(path for path in folder.glob("*") if path.suffix in _PICKLES):
        return (
            f"{pickles[0]}: a pickle file can run code when it is read and is never opened; "
            f"save it as {WEIGHTS} first"
        )
    return f"{folder}: {WEIGHTS} is missing"


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""
