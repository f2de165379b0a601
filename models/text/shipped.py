"""CLIP's vocabulary, which ships with us for checkpoints that carry none: single files."""

import gzip
from itertools import islice
from pathlib import Path

_MERGES = Path(__file__).with_name("vocabulary") / "bpe_simple_vocab_16e6.txt.gz"
_COUNT = 49_152 - 256 - 2  # merges that CLIP was trained with, the first of the file
BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def shipped_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """vocab.json and merges.txt as the repositories of Stable Diffusion carry them."""
    with gzip.open(_MERGES, "rt", encoding="utf-8") as lines:
        pairs = [line.split() for line in islice(lines, 1, 1 + _COUNT)]  # line 0: a version
    merges = [(left, right) for left, right in pairs]
    letters = _letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += [left + right for left, right in merges]
    return {token: i for i, token in enumerate([*tokens, BOS, EOS])}, merges


def _letters() -> list[str]:
    """One printable character for each byte, in CLIP's order. Radford et al. 2019 (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = len(set(range(0x100)) - set(printable))
    return [chr(code) for code in [*printable, *range(0x100, 0x100 + others)]]
