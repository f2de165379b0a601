"""What the files of a network's weights are called, and which of them are read.

Safetensors, never pickle: one file, or several and an index that names the file of every tensor.
Standard library only.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import Any

from models.bounds import brief
from models.files import CheckpointError

NETWORK, TEXT = "diffusion_pytorch_model", "model"  # how diffusers and transformers call them
SAFETENSORS = ".safetensors"
PICKLES = (".bin", ".ckpt", ".pkl", ".pt", ".pth")
_SHARD = re.compile(r".*-\d{5}-of-\d{5}")
_LONGEST_NAME = 128  # characters of a shard's name
_SHOWN = 4  # variants in a message


def source(stem: str, names: Collection[str], folder: str) -> str:
    """The file among `names` that holds a network's weights, or the index of those that do.

    The plain ones, else the only variant, such as `fp16`.

    Args:
        stem: how the files are called, `NETWORK` or `TEXT`.
        names: the files of the network's folder.
        folder: what the folder is called in messages.

    Raises:
        CheckpointError: there are none, or several variants.
    """
    plain = f"{stem}{SAFETENSORS}"
    for name in (plain, f"{plain}.index.json"):
        if name in names:
            return name
    variants = _variants(stem, names)
    if len(variants) == 1:
        return variants.popitem()[1]
    if variants:
        listed = ", ".join(sorted(variants)[:_SHOWN]) + (", ..." if len(variants) > _SHOWN else "")
        raise CheckpointError(
            f"{folder}: {plain} is missing, and there are several variants: {listed}; "
            f"allowed: one, or one of them as {plain}"
        )
    if pickles := sorted(filter(is_pickle, names)):
        raise CheckpointError(f"{folder}/{brief(pickles[0])[1:-1]}: {refusal(pickles[0], plain)}")
    raise CheckpointError(f"{folder}: {plain} is missing")


def is_index(name: str) -> bool:
    """Whether a `source` is the index of several files."""
    return name.endswith(".json")


def is_variant(name: str) -> bool:
    """Whether a `source` is not a plain one."""
    plain = [f"{stem}{SAFETENSORS}" for stem in (NETWORK, TEXT)]
    return name.removesuffix(".index.json") not in plain


def shards(index: str, values: Mapping[str, Any]) -> dict[str, str]:
    """Tensor -> the name of the file that holds it, as the JSON of an index has it.

    Args:
        index: what a message names.
        values: of the index.

    Raises:
        CheckpointError: it names no file, or one that cannot be in the same folder.
    """
    weight_map = values.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing or empty")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise CheckpointError(
                f"{index}: weight_map {brief(tensor)} is not a file name: {brief(name)}; "
                f"allowed: *{SAFETENSORS}, in the same folder"
            )
    return weight_map


def is_pickle(name: str) -> bool:
    """Whether a file is called as pickles are."""
    return name.lower().endswith(PICKLES)


def refusal(name: str, target: str) -> str:
    """Why a pickle is not opened, and how it is converted to the file `target`."""
    inside = "['state_dict']" if name.lower().endswith(".ckpt") else ""
    return (
        "a pickle file can run code when it is read and is never opened; to convert it in a safe "
        "place: safetensors.torch.save_file("
        f"torch.load({brief(name)}, weights_only=True){inside}, {brief(target)})"
    )


def _variants(stem: str, names: Collection[str]) -> dict[str, str]:
    """Variant -> its single file, or its index if it has none."""
    part = r"([\w-]{1,32})"
    forms = (  # diffusers and transformers write the first two; the last is older
        rf"{stem}\.{part}\.safetensors",
        rf"{stem}\.safetensors\.index\.{part}\.json",
        rf"{stem}\.safetensors\.{part}\.index\.json",
    )
    found: dict[str, str] = {}
    for form in forms:
        for name in sorted(names):
            match = re.fullmatch(form, name, re.ASCII)
            if match and not _SHARD.fullmatch(match[1]):
                found.setdefault(match[1], name)
    return found


def _is_file_name(name: str) -> bool:
    plain = name.isprintable() and "/" not in name and PurePath(name).name == name
    return plain and name.endswith(SAFETENSORS) and len(name) <= _LONGEST_NAME
