"""The files of a tokenizer, read and checked as transformers' `CLIPTokenizer` takes them.

tokenizer.json has byte pairs and merges; without it, vocab.json and merges.txt do.
tokenizer_config.json has the rest.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from models.bounds import brief
from models.files import CheckpointError, read_bytes, read_json
from models.text.special_tokens import (
    CONFIG,
    FAST,
    NAMED,
    SPECIAL_FILES,
    SpecialTokens,
    is_text,
    read_optional,
)

_VOCABULARY, _MERGES = "vocab.json", "merges.txt"
MAX_BYTES = 6 << 20  # of a tokenizer.json; CLIP's takes 3.6 million as transformers 5 writes it
_MAX_MERGES_BYTES = 4 << 20  # CLIP's take 0.5 million
# Values that are computed; transformers has no use for any other key.
_OPTIONS: Mapping[str, tuple[object, ...]] = {
    "auto_map": (None,),  # names code
    "padding_side": ("right",),
    "split_special_tokens": (False,),
    "tokenizer_class": (None, "CLIPTokenizer", "CLIPTokenizerFast"),
    "truncation_side": ("right",),
}


def tokenizer_files(folder: Path) -> list[Path]:
    """Those of a tokenizer's files that are there, in order of name."""
    names = sorted((_VOCABULARY, _MERGES, *SPECIAL_FILES, FAST))
    return [folder / name for name in names if os.path.lexists(folder / name)]


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say."""

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    special: SpecialTokens
    length: int  # of a text in tokens

    @classmethod
    def read(cls, folder: Path, *, vocab_size: int, positions: int) -> Self:
        """Read a folder for an encoder of `vocab_size` tokens at `positions` positions.

        Raises:
            CheckpointError: a file is missing, too large, or holds what cannot be used.
        """
        config = read_optional(folder / CONFIG)
        _check_options(folder / CONFIG, config)
        if os.path.lexists(source := folder / FAST):
            fast = read_json(source, MAX_BYTES)
            _check_sides(source, fast)
            model = _model(source, fast)
            vocabulary, merges = model.get("vocab"), model.get("merges")
            paired = source
        else:
            source, paired, fast = folder / _VOCABULARY, folder / _MERGES, {}
            vocabulary, merges = read_json(source), _lines(paired)
        ids = _vocabulary(source, vocabulary, vocab_size)
        special = SpecialTokens.read(folder, config, fast)
        if (unknown := special.named["unk_token"].content) not in ids:
            raise CheckpointError(f"{source}: unk_token {brief(unknown)} is not in it")
        length = _length(folder / CONFIG, config, positions)
        return cls(ids, _merges(paired, merges, ids), special, length)


def _check_options(path: Path, config: Mapping[str, Any]) -> None:
    for key, allowed in _OPTIONS.items():
        if key in config and config[key] not in allowed:
            raise _not_allowed(path, key, config[key], allowed)
    for key, value in config.items():
        if key.endswith("_token") and key not in NAMED and isinstance(value, str | dict):
            raise CheckpointError(f"{path}: unknown key {brief(key)}; known: {', '.join(NAMED)}")


def _check_sides(path: Path, fast: Mapping[str, Any]) -> None:
    for key in ("padding", "truncation"):
        held = fast.get(key)
        side = held.get("direction", "Right") if isinstance(held, dict) else "Right"
        if side != "Right":
            raise _not_allowed(path, f"{key}.direction", side, ("Right",))


def _not_allowed(
    path: Path, key: str, value: object, allowed: tuple[object, ...]
) -> CheckpointError:
    listed = ", ".join("null" if other is None else repr(other) for other in allowed)
    return CheckpointError(f"{path}: {key} is {brief(value)}; allowed: {listed}")


def _vocabulary(path: Path, held: Any, vocab_size: int) -> dict[str, int]:
    """Token -> its id, one of the encoder's."""
    if not isinstance(held, dict) or not held:
        raise CheckpointError(
            f"{path}: the vocabulary is {brief(held)}; allowed: ids by their token"
        )
    seen = set()
    for token, i in held.items():
        if type(i) is not int or not 0 <= i < vocab_size:
            raise CheckpointError(
                f"{path}: token {brief(token)} has the id {brief(i)}; "
                f"allowed: 0 to {vocab_size - 1}, the encoder's vocab_size"
            )
        if i in seen:
            raise CheckpointError(f"{path}: token {brief(token)} has the id {i} of another token")
        if not is_text(token):
            raise CheckpointError(f"{path}: token {brief(token)} is no text")
        seen.add(i)
    return held


def _merges(path: Path, held: Any, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Pairs of tokens in the order in which they are merged."""
    if not isinstance(held, list):
        raise CheckpointError(f"{path}: merges is {brief(held)}; allowed: a list of pairs")
    merges = []
    for line in held:
        pair = line.split(" ") if isinstance(line, str) else line
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(p) is str for p in pair):
            raise CheckpointError(f"{path}: a merge is {brief(line)}; allowed: a pair of tokens")
        left, right = pair
        for token in (left, right, left + right):
            if token not in vocabulary:
                raise CheckpointError(
                    f"{path}: merge {brief(line)} needs {brief(token)}; the vocabulary lacks it"
                )
        merges.append((left, right))
    return merges


def _model(path: Path, fast: Mapping[str, Any]) -> dict[str, Any]:
    model = fast.get("model")
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else model
        raise _not_allowed(path, "model.type", kind, ("BPE",))
    return model


def _lines(path: Path) -> list[str]:
    try:
        text = read_bytes(path, _MAX_MERGES_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not UTF-8: {error.reason}") from error
    lines = (line.removesuffix("\r") for line in text.removesuffix("\n").split("\n"))
    return [line for line in lines if not line.startswith("#version")]


def _length(path: Path, config: Mapping[str, Any], positions: int) -> int:
    """Tokens of a text; many files have a `model_max_length` of 1e30, which is no bound."""
    value = config.get("model_max_length", config.get("max_len"))  # now, and long ago
    value = positions if value is None else value
    most = min(value, positions) if type(value) in (int, float) else 0
    if not most >= 2 or most != int(most):  # the first and the last are not the text's
        raise CheckpointError(
            f"{path}: model_max_length is {brief(value)}; allowed: whole numbers from 2"
        )
    return int(most)
