"""CLIP's tokenizer: byte pairs of lower-case text. Sennrich et al. 2016; Radford et al. 2021.

Equals transformers' `CLIPTokenizer` of version 5 token for token, which is built on the same
library. Version 4 cleaned text with `ftfy` where that was installed; version 5 does not.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers
from tokenizers.models import BPE

from models.bounds import brief
from models.files import CheckpointError
from models.text.shipped import EOS, shipped_vocabulary
from models.text.special_tokens import SpecialTokens
from models.text.tokenizer_files import TokenizerFiles

_VOCAB_SIZE, _POSITIONS = 49_408, 77  # of every text encoder of Stable Diffusion
_ENDS = 2  # tokens that every text has: its beginning and its end
_PIECES = Regex(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)


@dataclass(frozen=True)
class Tokens:
    """A text as the encoder reads it: beginning, text, end, padding."""

    ids: tuple[int, ...]
    cut: int  # tokens of the text that did not fit


class Tokenizer:
    """Text -> ids, always `length` of them, each below `size`."""

    def __init__(self, files: TokenizerFiles) -> None:
        special = files.special
        self.length = files.length
        self._backend = _backend(files)
        ids = self._backend.get_vocab()
        self.size = 1 + max(ids.values())
        self._bos, self._eos, self._pad = (
            ids[special.named[name].content] for name in ("bos_token", "eos_token", "pad_token")
        )
        self._vectors = _vectors({t.content for t in special.in_order()}, files.length)

    @classmethod
    def read(
        cls, folder: Path, *, vocab_size: int = _VOCAB_SIZE, positions: int = _POSITIONS
    ) -> Self:
        """The tokenizer in a folder, for an encoder of so many tokens and positions.

        Raises:
            CheckpointError: a file is missing, too large, or holds what cannot be used.
        """
        files = TokenizerFiles.read(folder, vocab_size=vocab_size, positions=positions)
        made = cls(files)
        ids = made._backend.get_vocab()
        for i, token in files.special.added.items():
            if (found := ids[token.content]) != i:
                raise CheckpointError(
                    f"{folder}: added token {brief(token.content)} has the id {i}; allowed: {found}"
                )
        if made.size > vocab_size:
            raise CheckpointError(
                f"{folder}: added tokens have ids up to {made.size - 1}; "
                f"allowed: up to {vocab_size - 1}, the encoder's vocab_size"
            )
        return made

    @classmethod
    def shipped(cls, pad: str = EOS) -> Self:
        """CLIP's own; SDXL's second encoder, and 2.x, are padded with `!`."""
        vocabulary, merges = shipped_vocabulary()
        return cls(TokenizerFiles(vocabulary, merges, SpecialTokens.of(pad), _POSITIONS))

    def encode(self, text: str) -> Tokens:
        """The ids of a text, cut or padded to `length`."""
        made = self._encode(text)
        if several := self._vectors.keys() & set(made.tokens):
            # At once, as what one stands for may have the names of others in it, many times each.
            longest_first = sorted(several, key=len, reverse=True)
            names = re.compile("|".join(map(re.escape, longest_first)))
            made = self._encode(names.sub(lambda found: self._vectors[found[0]], text))
        ids = made.ids
        room = self.length - _ENDS
        padding = (self._pad,) * (room - len(ids))
        return Tokens((self._bos, *ids[:room], self._eos, *padding), cut=max(len(ids) - room, 0))

    def _encode(self, text: str) -> tokenizers.Encoding:
        return self._backend.encode(text, add_special_tokens=False)


def _backend(files: TokenizerFiles) -> tokenizers.Tokenizer:
    """As transformers 5 builds it; the normalizer comes first, since added tokens go through it."""
    backend = tokenizers.Tokenizer(
        BPE(
            vocab=files.vocabulary,
            merges=files.merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=files.special.named["unk_token"].content,
        )
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECES, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_tokens(files.special.in_order())
    return backend


def _vectors(added: Iterable[str], most: int) -> dict[str, str]:
    """What a prompt's token of textual inversion stands for: `<cat> <cat>_1 <cat>_2`, as diffusers.

    Only those with several vectors, and no more of these than a text has tokens.
    """
    names, found = set(added), {}
    for name in names:
        vectors = [name]
        while len(vectors) < most and (following := f"{name}_{len(vectors)}") in names:
            vectors.append(following)
        if len(vectors) > 1:
            found[name] = " ".join(vectors)
    return found
