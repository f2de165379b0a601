"""Which files of a repository make up a model, by its `model_index.json`. PyTorch is not needed.

Only what is opened here is wanted: configurations, tokenizers and safetensors of the components
that are built. Pickles, other formats and other components never are.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from models.bounds import brief
from models.files import INDEX, CheckpointError
from models.index import ModelIndex
from models.sheet_file import SHEET
from models.weight_names import NETWORK, TEXT, is_index, shards, source

_CONFIG, _SCHEDULE = "config.json", "scheduler/scheduler_config.json"
_WHOLE, _VOCABULARY = "tokenizer.json", ("vocab.json", "merges.txt")  # the first has all of it
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Wanted:
    """Names of files in a repository: small ones, of which indices name weights; and weights."""

    small: tuple[str, ...]
    indices: tuple[str, ...]
    weights: tuple[str, ...]

    @classmethod
    def of(cls, index: ModelIndex, names: Collection[str]) -> "Wanted":
        """What a model with this `model_index.json` is opened from, of all `names` that are there.

        Raises:
            CheckpointError: a file of it is not there.
        """
        networks = {"unet": NETWORK, index.vae: NETWORK, **{t.folder: TEXT for t in index.texts}}
        small, sources = [INDEX, _SCHEDULE], []
        for folder, stem in networks.items():
            small.append(f"{folder}/{_CONFIG}")
            sources.append(f"{folder}/{source(stem, _inside(folder, names), folder)}")
        for text in index.texts:
            found = _tokenizer(_inside(text.tokenizer, names))
            small += [f"{text.tokenizer}/{name}" for name in found]
        if missing := [name for name in small if name not in names]:
            raise CheckpointError(f"{missing[0]} is missing")
        if SHEET in names and not index.texts:
            small.append(SHEET)
        indices = tuple(filter(is_index, sources))
        weights = tuple(name for name in sources if name not in indices)
        return cls((*small, *indices), indices, weights)


def named(index: str, values: Mapping[str, Any], names: Collection[str]) -> tuple[str, ...]:
    """The files that the JSON of an index names, all of its own folder and of `names`.

    Raises:
        CheckpointError: it names another file, or none.
    """
    folder = index.rpartition("/")[0]
    found = sorted({f"{folder}/{name}" for name in shards(index, values).values()})
    if lost := [name for name in found if name not in names]:
        raise CheckpointError(f"{index}: weight_map names {brief(lost[0])}, which is not there")
    return tuple(found)


def _inside(folder: str, names: Collection[str]) -> list[str]:
    """The names of the files that lie directly in a folder, in order."""
    begin = f"{folder}/"
    inside = (name.removeprefix(begin) for name in names if name.startswith(begin))
    return sorted(name for name in inside if "/" not in name)


def _tokenizer(names: Collection[str]) -> list[str]:
    vocabulary = (_WHOLE,) if _WHOLE in names else _VOCABULARY
    return [*vocabulary, *(name for name in _SETTINGS if name in names)]
