"""The weights of one network: which files hold them, and reading them with checks.

Safetensors, never pickle. One file, or several and an index that names the file of every tensor.
"""

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from models.bounds import brief
from models.files import CheckpointError, check_inside, read_json
from models.stored import Stored, read_tensors
from models.tensor_file import (
    MAX_HEADER_BYTES,
    MAX_WEIGHT_BYTES,
    PICKLES,
    TensorFile,
    convertible,
)

NETWORK, TEXT = "diffusion_pytorch_model", "model"  # how diffusers and transformers call them
WEIGHTS = f"{NETWORK}.safetensors"
_SHARD = re.compile(r".*-\d{5}-of-\d{5}")
# Attention as early diffusers named it; Rombach et al.'s files have 1x1 convolutions in it.
_RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OUTER = "text_model."  # transformers has left it out of CLIPTextModel's names since 5.6
# What CLIP's files have besides the weights that a text encoder computes with.
_PASSED = re.compile(r"(text_model\.)?embeddings\.position_ids|text_projection\.weight|logit_scale")
_SHOWN = 4  # variants in a message


def weight_source(folder: Path, stem: str = NETWORK) -> Path:
    """The file that holds a network's weights, or the index of the files that do.

    The plain ones, else the only variant that is there, such as `fp16`.

    Args:
        folder: of the component.
        stem: how the files are called, `NETWORK` or `TEXT`.

    Raises:
        CheckpointError: there are none, or several variants.
    """
    plain = f"{stem}.safetensors"
    for name in (plain, f"{plain}.index.json"):
        if os.path.lexists(folder / name):
            return folder / name
    variants = _variants(folder, stem)
    if len(variants) > 1:
        listed = ", ".join(sorted(variants)[:_SHOWN]) + (", ..." if len(variants) > _SHOWN else "")
        raise CheckpointError(
            f"{folder}: {plain} is missing, and there are several variants: {listed}; "
            f"allowed: one, or one of them as {plain}"
        )
    for source in variants.values():
        return source
    raise CheckpointError(_no_weights(folder, plain))


def is_variant(source: Path) -> bool:
    """Whether a `weight_source` is not a plain one."""
    plain = [f"{stem}.safetensors" for stem in (NETWORK, TEXT)]
    return source.name.removesuffix(".index.json") not in plain


def weight_files(folder: Path, stem: str = NETWORK) -> list[Path]:
    """The files that hold a network's weights, in order of name, including their index.

    Raises:
        CheckpointError: as `weight_source`; or the index is wrong.
    """
    source = weight_source(folder, stem)
    return sorted({source, *_shards(source).values()}) if _is_index(source) else [source]


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
    most = 8 * sum(tensor.numel() for tensor in expected.values()) + MAX_HEADER_BYTES
    source = weight_source(folder, stem)
    if _is_index(source):
        place = _shards(source)
    else:
        place = dict.fromkeys(open_weights(source, most).entries, source)
    if stem == TEXT:
        place = {n: at for n, at in place.items() if n in expected or not _PASSED.fullmatch(n)}
    stored = _by_present_name(place, expected)
    opening = partial(open_weights, most=most)
    return read_tensors(folder, stored, expected, device, dtype, opening)


def open_weights(path: Path, most: int = MAX_WEIGHT_BYTES) -> TensorFile:
    """A file of a model folder, of at most `most` bytes, complete by its header; no data is read.

    Raises:
        CheckpointError: as `TensorFile.open`; or it is outside of the folder.
    """
    file = TensorFile.open(path, most)
    check_inside(path)
    return file


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


def _variants(folder: Path, stem: str) -> dict[str, Path]:
    """Variant -> its single file, or its index if it has none."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError:  # reported as a missing file
        return {}
    found: dict[str, Path] = {}
    # The libraries write the first two; the last was written by earlier versions.
    for form in (
        r"{}\.([\w-]{{1,32}})\.safetensors",
        r"{}\.safetensors\.index\.([\w-]{{1,32}})\.json",
        r"{}\.safetensors\.([\w-]{{1,32}})\.index\.json",
    ):
        for name in names:
            match = re.fullmatch(form.format(stem), name, re.ASCII)
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


def _no_weights(folder: Path, plain: str) -> str:
    if pickles := sorted(path for path in folder.glob("*") if path.suffix in PICKLES):
        return f"{pickles[0]}: {convertible(pickles[0].name, plain)}"
    return f"{folder}: {plain} is missing"
