"""From what an image is to show to what its UNet reads: a row of a table, or texts encoded.

A conditioning has two sides: what was asked for, and what classifier-free guidance leads away from.
"""

from collections import OrderedDict
from typing import Protocol

import torch
from torch import Tensor

from models.conditional_unet import UNet2DCondition
from models.conditioning import NOTHING_CUT, Classes, Condition, Cut, Prompt
from models.text.prompts import Encoded, PromptEncoder

# What the network reads for some rows besides latents and timesteps, each tensor (B, ...).
Conditioning = tuple[Tensor, ...]
Size = tuple[int, int]  # (width, height) of an image in pixels

_CACHE_BYTES = 128 << 20  # of texts that were encoded; one of SDXL takes 0.6 MiB


class Conditioner(Protocol):
    """Makes conditionings for one UNet."""

    def encode(self, condition: Condition, size: Size) -> tuple[Conditioning, Cut]:
        """Both sides, each tensor (2, ...), and how many tokens of the prompts did not fit."""

    def blank(self, count: int) -> Conditioning:
        """Room for so many conditionings, each tensor (count, 2, ...)."""

    def examples(self, count: int) -> list[Condition]:
        """So many conditions, several of them different, to try a device with."""


class ByClass:
    """Class labels, int64; or nothing, for a network without an embedding of classes."""

    def __init__(self, classes: Classes, *, labelled: bool) -> None:
        self._classes, self._labelled = classes, labelled

    def encode(self, condition: Condition, _size: Size) -> tuple[Conditioning, Cut]:
        """On the CPU."""
        if not self._labelled:
            return (), NOTHING_CUT
        null = self._classes.null or 0  # a model without a null class is never guided
        index = condition.index
        return (torch.tensor([null if index is None else index, null]),), NOTHING_CUT

    def blank(self, count: int) -> Conditioning:
        """On the CPU."""
        return (torch.zeros(count, 2, dtype=torch.int64),) if self._labelled else ()

    def examples(self, count: int) -> list[Condition]:
        """One class after the other."""
        most = len(self._classes.names)
        return [Condition(k % most if most else None) for k in range(count)]


class ByPrompt:
    """Texts, encoded, and SDXL's added condition; on the UNet's device and of its type.

    A text is encoded once, as long as there is room to remember it. diffusers gives negative
    prompts no `clip_skip`. `zeros` says that an absent negative prompt is zeros, as in SDXL.
    """

    _EXAMPLES = 4  # encoding a text takes a CPU a few tenths of a second

    def __init__(self, unet: UNet2DCondition, reader: PromptEncoder, *, zeros: bool) -> None:
        self._unet, self._reader, self._zeros = unet, reader, zeros
        self._known: OrderedDict[tuple[str, int], Encoded] = OrderedDict()
        self._bytes = 0  # of these

    def encode(self, condition: Condition, size: Size) -> tuple[Conditioning, Cut]:
        """Of the prompt, and of the negative one."""
        prompt = condition.prompt or Prompt("")
        own = self._text(prompt.text, prompt.clip_skip)
        absent = self._zeros and not prompt.negative
        null = self._reader.zeros() if absent else self._text(prompt.negative, 0)
        context = torch.cat([own.context, null.context])
        cut = own.cut[0], null.cut[0]
        if own.pooled is None or null.pooled is None:
            return (context,), cut
        return (context, self._added(torch.cat([own.pooled, null.pooled]), size)), cut

    def blank(self, count: int) -> Conditioning:
        """As an empty text needs it."""
        empty = self._reader.zeros()
        context = empty.context.new_zeros(count, 2, *empty.context.shape[1:])
        if empty.pooled is None:
            return (context,)
        added = self._added(empty.pooled, (0, 0))
        return context, added.new_zeros(count, 2, *added.shape[1:])

    def examples(self, count: int) -> list[Condition]:
        """A few short prompts, again and again."""
        return [Condition(prompt=Prompt(f"{k % self._EXAMPLES}")) for k in range(count)]

    @torch.inference_mode()
    def _added(self, pooled: Tensor, size: Size) -> Tensor:
        """Texts and numbers of an image that was not cropped. Podell et al. 2023, sec. 2.2."""
        width, height = size
        numbers = pooled.new_tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        return self._unet.added(pooled, numbers.expand(len(pooled), -1))

    def _text(self, text: str, clip_skip: int) -> Encoded:
        """One text, (1, tokens, dim): as it was made before, if that is known."""
        key = text, clip_skip
        if key not in self._known:
            made = self._known[key] = self._reader.encode([text], clip_skip)
            self._bytes += _bytes(made)
            while self._bytes > _CACHE_BYTES and len(self._known) > 1:
                _, dropped = self._known.popitem(last=False)
                self._bytes -= _bytes(dropped)
        self._known.move_to_end(key)
        return self._known[key]


def _bytes(encoded: Encoded) -> int:
    return encoded.context.nbytes + (0 if encoded.pooled is None else encoded.pooled.nbytes)
