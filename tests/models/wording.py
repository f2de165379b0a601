"""Prompts of many kinds from a seed, small tokenizers, and transformers' own as an oracle."""

import json
import random
from collections.abc import Callable, Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import CLIPTokenizer

from models.text.shipped import BOS, EOS, shipped_vocabulary

Words = Callable[[], tuple[dict[str, int], list[tuple[str, str]]]]
TEXTS = Path(__file__).with_name("prompts.txt").read_text(encoding="utf-8").splitlines()
SPACES = (" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u2003", "\u0085", "\u200b", "")
ODD = (
    *(chr(code) for code in (*range(0x20), 0x7F, 0x85, 0xAD, 0x200D, 0x202E, 0xFE0F, 0xFEFF)),
    *("\ufffd", "\uffff", "\U000e0041", "\U0010ffff", "e\u0301", "\u0301\u0301", "A\u030a"),
    *("!", "!!", "! !", "</w>", "<|", "|>", "\u0120", "\u0130", "\u03a3", "\u1e9e", "\u212a"),
    *(BOS, EOS, EOS.upper(), "<|EndOfText|>", f"{BOS}{EOS}", f"x{EOS}y", f" {BOS} ", "endoftext"),
)
EDGES = ("", " ", "\n\t ", "\u3000", "\0", "!", EOS, BOS, f"{EOS} " * 90, "a" * 5000, "cat " * 500)


def prompts(count: int, seed: int = 0) -> Iterator[str]:
    """Edge cases, then parts of texts in all scripts, cut and joined anyhow."""
    draw = random.Random(seed)
    yield from EDGES
    for _ in range(count - len(EDGES)):
        parts = [_part(draw) for _ in range(draw.choice((1, 1, 2, 4)))]
        made = draw.choice(SPACES).join(parts)
        yield draw.choice((str, str, str.upper, str.title, str.swapcase))(made)


def _part(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.15:
        return draw.choice(ODD)
    if kind < 0.2:
        return "".join(chr(_scalar(draw)) for _ in range(draw.randint(1, 20)))
    text = draw.choice(TEXTS)
    if kind < 0.22:  # 500 words of several texts
        words = " ".join(draw.sample(TEXTS, 12)).split()
        return " ".join(draw.choices(words, k=500))
    start = draw.randrange(len(text))
    return text[start : start + draw.randint(1, 200)]


def _scalar(draw: random.Random) -> int:
    """A code point that text can have: no half of a surrogate pair."""
    code = draw.randrange(0x110000)
    return code if not 0xD800 <= code < 0xE000 else code - 0x800


@cache
def small_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The beginning of CLIP's vocabulary: every byte, 400 merges, the special tokens."""
    vocabulary, merges = shipped_vocabulary()
    tokens = [*islice(vocabulary, 512 + 400), BOS, EOS]
    return {token: i for i, token in enumerate(tokens)}, merges[:400]


def write_tokenizer(folder: Path, words: Words = small_vocabulary, **files: Any) -> Path:
    """vocab.json and merges.txt as versions before 5 wrote them, and the JSON files given."""
    vocabulary, merges = words()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = "".join(f"{left} {right}\n" for left, right in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}", encoding="utf-8")
    for name, values in files.items():
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def ids_of(oracle: CLIPTokenizer, texts: list[str], length: int = 77) -> list[list[int]]:
    """As diffusers' pipelines ask for them."""
    made = oracle(texts, padding="max_length", max_length=length, truncation=True)
    ids: list[list[int]] = made.input_ids
    return ids
