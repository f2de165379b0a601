"""The files of a tokenizer, read and checked as transformers' `CLIPTokenizer` takes them.

tokenizer.json holds everything; without it, vocab.json and merges.txt do. Which tokens are special
says tokenizer_config.json if it has `added_tokens_decoder`; in a file without it, written before
transformers 4.34, special_tokens_map.json goes before it, and added_tokens.json has the rest.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from models.bounds import brief
from models.files import CheckpointError, read_bytes, read_json
from models.text.shipped import BOS, EOS

CONFIG, FAST, VOCABULARY, MERGES = (
    "tokenizer_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)
_SPECIAL, _ADDED = "special_tokens_map.json", "added_tokens.json"
_EXTRA, _MORE = "extra_special_tokens", "additional_special_tokens"  # since version 5, before it
_MAX_FAST_BYTES = 6 << 20  # CLIP's takes 3.6 million as transformers 5 writes it
_MAX_MERGES_BYTES = 4 << 20  # CLIP's take 0.5 million
NEEDED = ("bos_token", "eos_token", "unk_token", "pad_token")
_NAMED = (  # in the order in which transformers adds them
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_DEFAULTS = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
_DECODER = "added_tokens_decoder"
_ID = re.compile(r"[0-9]{1,9}")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
# Values that are computed; transformers has no use for any other key.
_OPTIONS: Mapping[str, tuple[object, ...]] = {
    "auto_map": (None,),  # names code
    "padding_side": ("right",),
    "split_special_tokens": (False,),
    "tokenizer_class": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "truncation_side": ("right",),
}


@dataclass(frozen=True)
class TokenizerFiles:
    """What the files say."""

    vocabulary: dict[str, int]
    merges: list[tuple[str, str]]
    named: dict[str, AddedToken]  # bos_token ...: those of `NEEDED`, and others
    added: dict[int, AddedToken]  # by id
    extra: list[AddedToken]
    length: int  # of a text in tokens

    @classmethod
    def read(cls, folder: Path, *, vocab_size: int, positions: int) -> "TokenizerFiles":
        """Read a folder for an encoder of `vocab_size` tokens at `positions` positions.

        Raises:
            CheckpointError: a file is missing, too large, or holds what cannot be used.
        """
        config = _optional(folder / CONFIG) or {}
        fast = _optional(folder / FAST, _MAX_FAST_BYTES)
        _check_options(folder / CONFIG, config)
        _check_sides(folder / FAST, fast)
        special = (None if _DECODER in config else _optional(folder / _SPECIAL)) or {}
        named = _named(folder, config, special)
        extra = _listed(folder / CONFIG, config, _EXTRA) or _listed(folder / CONFIG, config, _MORE)
        extra += _listed(folder / _SPECIAL, special, _EXTRA)
        added = _added(folder, config, fast, {t.content for t in [*named.values(), *extra]})
        extra = extra or _listed(folder / _SPECIAL, special, _MORE)  # not special in `added`
        by_content = {token.content: token for token in added.values()}
        source = folder / (VOCABULARY if fast is None else FAST)
        vocabulary = _vocabulary(source, fast, vocab_size)
        if (unknown := named["unk_token"].content) not in vocabulary:
            raise CheckpointError(f"{source}: unk_token {brief(unknown)} is not in it")
        return cls(
            vocabulary=vocabulary,
            merges=_merges(folder / (MERGES if fast is None else FAST), fast, vocabulary),
            named={name: by_content.get(t.content, t) for name, t in named.items()},
            added=added,
            extra=extra,
            length=_length(folder / CONFIG, config, positions),
        )


def _optional(path: Path, *most: int) -> dict[str, Any] | None:
    return read_json(path, *most) if os.path.lexists(path) else None


def _check_options(path: Path, config: Mapping[str, Any]) -> None:
    for key, allowed in _OPTIONS.items():
        if key in config and config[key] not in allowed:
            raise _not_allowed(path, key, config[key], allowed)
    for key, value in config.items():
        if key.endswith("_token") and key not in _NAMED and isinstance(value, str | dict):
            raise CheckpointError(f"{path}: unknown key {brief(key)}; known: {', '.join(_NAMED)}")


def _check_sides(path: Path, fast: Mapping[str, Any] | None) -> None:
    for key in ("padding", "truncation"):
        held = (fast or {}).get(key)
        side = held.get("direction", "Right") if isinstance(held, dict) else "Right"
        if side != "Right":
            raise _not_allowed(path, f"{key}.direction", side, ("Right",))


def _not_allowed(
    path: Path, key: str, value: object, allowed: tuple[object, ...]
) -> CheckpointError:
    listed = ", ".join("null" if other is None else repr(other) for other in allowed)
    return CheckpointError(f"{path}: {key} is {brief(value)}; allowed: {listed}")


def _named(
    folder: Path, config: Mapping[str, Any], special: Mapping[str, Any]
) -> dict[str, AddedToken]:
    """The tokens that have a name; transformers has a default for those that are needed."""
    found = {}
    for name in _NAMED:
        path = folder / (_SPECIAL if name in special else CONFIG)
        value = special.get(name, config.get(name, _DEFAULTS.get(name)))
        if value is not None or name in NEEDED:
            found[name] = _token(path, name, value, special=name in special)
    return found


def _listed(path: Path, values: Mapping[str, Any], key: str) -> list[AddedToken]:
    """More special tokens."""
    held = values.get(key) or []
    if not isinstance(held, list):
        raise CheckpointError(f"{path}: {key} is {brief(held)}; allowed: a list of tokens")
    return [_token(path, key, token, special=True) for token in held]


def _added(
    folder: Path, config: Mapping[str, Any], fast: Mapping[str, Any] | None, special: set[str]
) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary, by id: special ones, and those of textual inversion."""
    if _DECODER in config:
        path, held = folder / CONFIG, config[_DECODER]
        if not isinstance(held, dict):
            raise CheckpointError(f"{path}: {_DECODER} is {brief(held)}; allowed: tokens by id")
        return _by_id(path, _DECODER, list(held.items()))
    path = folder / _ADDED
    plain = [(i, _old(text, text in special)) for text, i in (_optional(path) or {}).items()]
    found = _by_id(path, "a token", plain)
    path, held = folder / FAST, (fast or {}).get("added_tokens", [])
    if not isinstance(held, list) or not all(isinstance(token, dict) for token in held):
        raise CheckpointError(f"{path}: added_tokens is {brief(held)}; allowed: a list of tokens")
    return found | _by_id(path, "added_tokens", [(token.get("id"), token) for token in held])


def _old(text: str, special: bool) -> dict[str, Any]:
    """A token of added_tokens.json."""
    return {"content": text, "normalized": not special, "special": special}


def _by_id(path: Path, key: str, held: list[tuple[Any, Any]]) -> dict[int, AddedToken]:
    tokens: dict[int, AddedToken] = {}
    for name, value in held:
        i = int(name) if isinstance(name, str) and _ID.fullmatch(name) else name
        if type(i) is not int or i < 0:
            raise CheckpointError(f"{path}: {key} has the id {brief(name)}; allowed: whole numbers")
        if i in tokens:
            raise CheckpointError(f"{path}: {key} has the id {i} twice")
        tokens[i] = _token(path, key, value)
    return dict(sorted(tokens.items()))


def _content(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _token(path: Path, key: str, value: Any, *, special: bool = False) -> AddedToken:
    """A token as text, or as text with flags."""
    text, given = _content(value), value if isinstance(value, dict) else {}
    flags = {name: given[name] for name in _FLAGS if name in given}
    if not text or not _is_text(text) or any(type(flag) is not bool for flag in flags.values()):
        raise CheckpointError(
            f"{path}: {key} is {brief(value)}; allowed: a text, or an object with it as content "
            f"and true or false as {', '.join(_FLAGS)}"
        )
    if special or not given:
        flags["special"] = True
    return AddedToken(text, **flags)


def _is_text(text: str) -> bool:
    """Whether it can be written as UTF-8; JSON can hold half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _vocabulary(path: Path, fast: Mapping[str, Any] | None, vocab_size: int) -> dict[str, int]:
    """Token -> its id, one of the encoder's."""
    held = read_json(path) if fast is None else _model(path, fast).get("vocab")
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
        if not _is_text(token):
            raise CheckpointError(f"{path}: token {brief(token)} is no text")
        seen.add(i)
    return held


def _merges(
    path: Path, fast: Mapping[str, Any] | None, vocabulary: Mapping[str, int]
) -> list[tuple[str, str]]:
    """Pairs of tokens in the order in which they are merged."""
    held = _lines(path) if fast is None else _model(path, fast).get("merges")
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
    value = config.get("model_max_length", positions)
    most = min(value, positions) if type(value) in (int, float) else 0
    if not most >= 2 or most != int(most):  # the first and the last are not the text's
        raise CheckpointError(
            f"{path}: model_max_length is {brief(value)}; allowed: whole numbers from 2"
        )
    return int(most)
