"""Tokens beside the byte pairs: the beginning, the end, padding, those of textual inversion.

Which there are says tokenizer_config.json if it has `added_tokens_decoder`. To a file without it,
written before transformers 4.34, special_tokens_map.json goes before it, and added_tokens.json and
tokenizer.json have the rest. All as transformers 5 takes them.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tokenizers import AddedToken

from models.bounds import brief
from models.files import CheckpointError, read_json
from models.text.shipped import BOS, EOS

CONFIG, FAST = "tokenizer_config.json", "tokenizer.json"
_SPECIAL, _ADDED = "special_tokens_map.json", "added_tokens.json"
SPECIAL_FILES = (CONFIG, _SPECIAL, _ADDED)
NEEDED = ("bos_token", "eos_token", "unk_token", "pad_token")
NAMED = (  # in the order in which transformers adds them
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_DEFAULTS = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
_EXTRA, _MORE = "extra_special_tokens", "additional_special_tokens"  # since version 5, before it
_DECODER = "added_tokens_decoder"
_ID = re.compile(r"[0-9]{1,9}")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class SpecialTokens:
    """What the files say of them."""

    named: dict[str, AddedToken]  # bos_token ...: those of `NEEDED`, and others
    added: dict[int, AddedToken]  # by id
    extra: list[AddedToken]

    @classmethod
    def read(cls, folder: Path, config: Mapping[str, Any], fast: Mapping[str, Any]) -> Self:
        """Those of a folder with this tokenizer_config.json and tokenizer.json; empty for none.

        Raises:
            CheckpointError: something that is no token, or no id.
        """
        special = {} if _DECODER in config else read_optional(folder / _SPECIAL)
        named = _named(folder, config, special)
        extra = _listed(folder / CONFIG, config, _EXTRA) or _listed(folder / CONFIG, config, _MORE)
        extra += _listed(folder / _SPECIAL, special, _EXTRA)
        added = _added(folder, config, fast, {t.content for t in [*named.values(), *extra]})
        extra = extra or _listed(folder / _SPECIAL, special, _MORE)  # not special in `added`
        by_content = {token.content: token for token in added.values()}
        named = {name: by_content.get(token.content, token) for name, token in named.items()}
        return cls(named, added, extra)

    @classmethod
    def of(cls, pad: str) -> Self:
        """CLIP's own, padded with this one."""
        named = dict(zip(NEEDED, (BOS, EOS, EOS, pad), strict=True))
        return cls({name: AddedToken(text, special=True) for name, text in named.items()}, {}, [])

    def in_order(self) -> list[AddedToken]:
        """As transformers adds them: the last of one content decides on its flags."""
        known = {token.content for token in self.added.values()}
        others = [*self.named.values(), *self.extra]
        new = dict.fromkeys(token for token in others if token.content not in known)
        tokens = [*self.added.values(), *new]
        special = {token.content for token in self.named.values()}
        for token in tokens:
            token.special = token.special or token.content in special
        return tokens


def read_optional(path: Path) -> dict[str, Any]:
    """A JSON object; empty if there is no file."""
    return read_json(path) if os.path.lexists(path) else {}


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8; JSON can hold half a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _named(
    folder: Path, config: Mapping[str, Any], special: Mapping[str, Any]
) -> dict[str, AddedToken]:
    """The tokens that have a name; transformers has a default for those that are needed."""
    found = {}
    for name in NAMED:
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
    folder: Path, config: Mapping[str, Any], fast: Mapping[str, Any], special: set[str]
) -> dict[int, AddedToken]:
    """Tokens beside the vocabulary, by id: special ones, and those of textual inversion."""
    if _DECODER in config:
        path, held = folder / CONFIG, config[_DECODER]
        if not isinstance(held, dict):
            raise CheckpointError(f"{path}: {_DECODER} is {brief(held)}; allowed: tokens by id")
        return _by_id(path, _DECODER, list(held.items()))
    path = folder / _ADDED
    plain = [(i, _old(text, text in special)) for text, i in read_optional(path).items()]
    found = _by_id(path, "a token", plain)
    path, held = folder / FAST, fast.get("added_tokens", [])
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
    if not text or not is_text(text) or any(type(flag) is not bool for flag in flags.values()):
        raise CheckpointError(
            f"{path}: {key} is {brief(value)}; allowed: a text, or an object with it as content "
            f"and true or false as {', '.join(_FLAGS)}"
        )
    if special or not given:
        flags["special"] = True
    return AddedToken(text, **flags)
