"""The weights of one network: which files hold them, and reading them with checks.

Safetensors, never pickle. One file, or several and an index that names the file of every tensor.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError, check_fetched, check_regular, read_json
from models.memory import MAX_PARAMETERS

WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHARDS = f"{WEIGHTS}.index.json"
# diffusers writes the first two; the last was written by earlier versions.
_VARIANTS = (
    re.compile(r"diffusion_pytorch_model\.([\w-]{1,32})\.safetensors", re.ASCII),
    re.compile(r"diffusion_pytorch_model\.safetensors\.index\.([\w-]{1,32})\.json", re.ASCII),
    re.compile(r"diffusion_pytorch_model\.safetensors\.([\w-]{1,32})\.index\.json", re.ASCII),
)
_SHARD = re.compile(r".*-\d{5}-of-\d{5}")
# Attention as early diffusers named it; Rombach et al.'s files have 1x1 convolutions in it.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SHOWN = 4  # variants in a message
_DTYPES = ("F64", "F32", "F16", "BF16")
_MAX_HEADER_BYTES = 4 << 20  # 10,000 tensors take 1 MiB; safetensors would parse 100 MB
MAX_WEIGHT_BYTES = 8 * MAX_PARAMETERS + _MAX_HEADER_BYTES


def weight_source(folder: Path) -> Path:
    """The file that holds a network's weights, or the index of the files that do.

    The plain ones, else the only variant that is there, such as `fp16`.

    Raises:
        CheckpointError: there are none, or several variants.
    """
    for name in (WEIGHTS, _SHARDS):
        if os.path.lexists(folder / name):
            return folder / name
    variants = _variants(folder)
    if len(variants) > 1:
        listed = ", ".join(sorted(variants)[:_SHOWN]) + (", ..." if len(variants) > _SHOWN else "")
        raise CheckpointError(
            f"{folder}: {WEIGHTS} is missing, and there are several variants: {listed}; "
            f"allowed: one, or one of them as {WEIGHTS}"
        )
    for source in variants.values():
        return source
    raise CheckpointError(_no_weights(folder))


def is_variant(source: Path) -> bool:
    """Whether a `weight_source` is not a plain one."""
    return source.name not in (WEIGHTS, _SHARDS)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a network's weights, in order of name, including their index.

    Raises:
        CheckpointError: as `weight_source`; or the index is wrong.
    """
    source = weight_source(folder)
    return sorted({source, *_shards(source).values()}) if _is_index(source) else [source]


def read_weights(
    folder: Path, expected: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Exactly the tensors that are expected, by name and shape, on a device.

    Attention may have the names that it had in early diffusers, and the shapes of 1x1 convolutions.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown or pickled, before much of
            it is read; the message names the file and the tensor.
    """
    most = 8 * sum(tensor.numel() for tensor in expected.values()) + _MAX_HEADER_BYTES
    source = weight_source(folder)
    if _is_index(source):
        place = _shards(source)
    else:
        with open_weights(source, most) as file:
            place = dict.fromkeys(file.keys(), source)
    stored = _by_present_name(place)
    if missing := sorted(expected.keys() - stored.keys()):
        raise CheckpointError(f"{folder}: missing tensor {missing[0]!r}{_more(missing)}")
    if extra := sorted(stored[name] for name in stored.keys() - expected.keys()):
        raise CheckpointError(f"{place[extra[0]]}: unknown tensor {brief(extra[0])}{_more(extra)}")
    parts: dict[Path, list[str]] = {}
    for name in stored:
        parts.setdefault(place[stored[name]], []).append(name)
    tensors = {}
    for path, names in sorted(parts.items()):
        with open_weights(path, most) as file:
            held = set(file.keys())
            for name in names:
                if stored[name] not in held:
                    raise CheckpointError(f"{path}: missing tensor {stored[name]!r}")
                shape = list(expected[name].shape)
                _check_form(path, stored[name], file.get_slice(stored[name]), shape)
                tensor = file.get_tensor(stored[name]).reshape(shape)
                tensors[name] = tensor.to(device=device, dtype=dtype)
    return tensors


def open_weights(path: Path, most: int = MAX_WEIGHT_BYTES) -> Any:
    """A safetensors file of at most `most` bytes, complete by its header; no data is read.

    Raises:
        CheckpointError: it is missing, another kind of file, too large, or truncated.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: missing")
    if not check_regular(path, most):  # not to be read: the kernel's files are empty, and may block
        raise CheckpointError(f"{path}: not a whole safetensors file: it is empty")
    try:
        with path.open("rb") as file:
            start = file.read(64)
        check_fetched(path, start)
        header = int.from_bytes(start[:8], "little")
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
    found = held.get_shape()
    if len(shape) == 2 and ".attentions." in name and found[2:] in ([1], [1, 1]):
        found = found[:2]  # a convolution of one position is a linear map
    if found != shape:
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {brief(held.get_shape())}; {shape} needed"
        )
    if held.get_dtype() not in _DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name!r} is {held.get_dtype()}; allowed: {', '.join(_DTYPES)}"
        )


def _by_present_name(place: Mapping[str, Path]) -> dict[str, str]:
    """The names of tensors now -> their names in the files."""
    stored: dict[str, str] = {}
    for name, path in place.items():
        head, _, kind = name.rpartition(".")
        block, _, layer = head.rpartition(".")
        present = f"{block}.{_RENAMED[layer]}.{kind}" if layer in _RENAMED else name
        if present in stored:
            raise CheckpointError(
                f"{path}: tensor {brief(present)} comes twice, once by its old name"
            )
        stored[present] = name
    return stored


def _variants(folder: Path) -> dict[str, Path]:
    """Variant -> its single file, or its index if it has none."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:  # reported as a missing file
        return {}
    found: dict[str, Path] = {}
    for pattern in _VARIANTS:
        for name in names:
            match = pattern.fullmatch(name)
            if match and not _SHARD.fullmatch(match[1]):
                found.setdefault(match[1], folder / name)
    return found


def _is_index(source: Path) -> bool:
    return source.suffix == ".json"


def _shards(index: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, as the index says."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index}: weight_map is missing")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise CheckpointError(
                f"{index}: weight_map {brief(tensor)} is not a file name: {brief(name)}; "
                "allowed: *.safetensors, in the same folder"
            )
    return {tensor: index.parent / name for tensor, name in weight_map.items()}


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
