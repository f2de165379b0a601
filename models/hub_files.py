"""Which files of a repository make up a model, by its `model_index.json`. Standard library only.

Only what is opened here is wanted: configurations, tokenizers and safetensors of the components
that are built. Pickles, other formats and other components never are.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from models.bounds import brief
from models.files import INDEX as INDEX
from models.files import CheckpointError

_NETWORKS = ("unet", "vae", "vqvae")
_TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
_TOKENIZERS = ("tokenizer", "tokenizer_2")
COMPONENTS = (*_NETWORKS, *_TEXT_ENCODERS, *_TOKENIZERS, "scheduler")  # folders of those built
_CONFIG, _SCHEDULE = "config.json", "scheduler/scheduler_config.json"
_WHOLE, _VOCABULARY = "tokenizer.json", ("vocab.json", "merges.txt")  # the first has all of it
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_SHOWN = 4  # names in a message


@dataclass(frozen=True)
class Wanted:
    """Names of files in a repository: small ones, of which indices name weights; and weights."""

    small: tuple[str, ...]
    indices: tuple[str, ...]
    weights: tuple[str, ...]

    @classmethod
    def of(cls, index: Mapping[str, Any], names: Collection[str]) -> "Wanted":
        """What a model with this `model_index.json` is opened from, of all `names` that are there.

        Raises:
            CheckpointError: no model that is built here, or a file of it is not there.
        """
        components = {key for key, value in index.items() if _is_component(value)}
        for alternatives in (("unet",), ("vae", "vqvae"), ("scheduler",)):
            if components.isdisjoint(alternatives):
                raise CheckpointError(
                    f"{INDEX} names no {' or '.join(alternatives)}: "
                    f"{brief(index.get('_class_name'))} is not served here"
                )
        small, sources = [INDEX, _SCHEDULE], []
        for folder in (*_NETWORKS, *_TEXT_ENCODERS):
            if folder in components:
                stem = "diffusion_pytorch_model" if folder in _NETWORKS else "model"
                small.append(f"{folder}/{_CONFIG}")
                sources.append(f"{folder}/{source(stem, _inside(folder, names), folder)}")
        for folder in _TOKENIZERS:
            if folder in components:
                small += [f"{folder}/{name}" for name in _tokenizer(_inside(folder, names))]
        if missing := [name for name in small if name not in names]:
            raise CheckpointError(f"{missing[0]} is missing")
        indices = tuple(name for name in sources if name.endswith(".json"))
        weights = tuple(name for name in sources if name not in indices)
        return cls((*small, *indices), indices, weights)


def source(stem: str, names: Collection[str], folder: str) -> str:
    """The file among `names` that holds a network's weights, or the index of those that do.

    The plain ones, else the only variant, such as `fp16`.

    Args:
        stem: what the name begins with: `diffusion_pytorch_model`, or `model` of a text encoder.
        names: the files of the network's folder.
        folder: what the folder is called in messages.

    Raises:
        CheckpointError: there are none, or several variants.
    """
    plain = f"{stem}.safetensors"
    for name in (plain, f"{plain}.index.json"):
        if name in names:
            return name
    variants = _variants(stem, names)
    if len(variants) == 1:
        return variants.popitem()[1]
    if variants:
        raise CheckpointError(
            f"{folder}: {plain} is missing, and there are several variants: "
            f"{_listed(variants)}; allowed: one, or one of them as {plain}"
        )
    if pickles := [name for name in names if name.endswith(_PICKLES)]:
        raise CheckpointError(
            f"{folder}: {plain} is missing; never opened, because a pickle can run code when it is "
            f"read: {_listed(pickles)}"
        )
    raise CheckpointError(f"{folder}: {plain} is missing")


def named(index: str, weight_map: object, names: Collection[str]) -> tuple[str, ...]:
    """The files that the `weight_map` of an index names, all of its own folder and of `names`.

    Raises:
        CheckpointError: it names another file, or none.
    """
    folder = index.rpartition("/")[0]
    found = [*weight_map.values()] if isinstance(weight_map, dict) else []
    wrong = [name for name in found if not _is_shard(name) or f"{folder}/{name}" not in names]
    if wrong or not found:
        what = f"names {brief(wrong[0])}, which is not there" if wrong else "names no file"
        raise CheckpointError(f"{index}: weight_map {what}")
    return tuple(sorted({f"{folder}/{name}" for name in found}))


def _is_shard(name: object) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and "/" not in name


def _is_component(value: object) -> bool:
    """Whether an entry of the index is `[library, class]`, and not `[null, null]` or a setting."""
    return (
        isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
    )


def _inside(folder: str, names: Collection[str]) -> list[str]:
    """The names of the files that lie directly in a folder, in order."""
    begin = f"{folder}/"
    inside = (name.removeprefix(begin) for name in names if name.startswith(begin))
    return sorted(name for name in inside if "/" not in name)


def _tokenizer(names: Collection[str]) -> list[str]:
    vocabulary = (_WHOLE,) if _WHOLE in names else _VOCABULARY
    return [*vocabulary, *(name for name in _SETTINGS if name in names)]


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
        for name in names:
            match = re.fullmatch(form, name, re.ASCII)
            if match and not re.fullmatch(r".*-\d{5}-of-\d{5}", match[1]):
                found.setdefault(match[1], name)
    return found


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(brief(name)[1:-1] for name in sorted(names)[:_SHOWN])
    return shown + (", ..." if len(names) > _SHOWN else "")
