"""From what an image is to show to what its UNet reads: a row of a table, or texts encoded.

A conditioning has two sides: what was asked for, and what classifier-free guidance leads away from.
"""

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
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
_KEPT = 2  # texts that are remembered in any case

_Text = tuple[str, int]  # and its `clip_skip`


class Conditioner(Protocol):
    """Makes conditionings for one UNet."""

    def expect(self, condition: Condition) -> None:
        """Begin what `encode` will have to do, if that can go on beside other work."""

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

    def expect(self, condition: Condition) -> None:
        """Nothing takes long."""

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

    A text is encoded once, as long as there is room to remember it; on the CPU beside the ticks, in
    a thread of its own. diffusers gives negative prompts no `clip_skip`. `zeros` says that an
    absent negative prompt is zeros, as in SDXL.
    """

    _EXAMPLES = 4  # encoding a text takes a CPU a few tenths of a second

    def __init__(self, unet: UNet2DCondition, reader: PromptEncoder, *, zeros: bool) -> None:
        self._unet, self._reader, self._zeros = unet, reader, zeros
        self._known: OrderedDict[_Text, Future[Encoded]] = OrderedDict()
        self._each = _bytes(reader.zeros())
        # Not beside a GPU's ticks: nothing may allocate while a graph is captured.
        self._beside = next(unet.parameters()).device.type == "cpu"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="texts")

    def expect(self, condition: Condition) -> None:
        """Begin to encode both texts."""
        if self._beside:
            for text in self._texts(condition):
                self._begun(text)

    def encode(self, condition: Condition, size: Size) -> tuple[Conditioning, Cut]:
        """Of the prompt, and of the negative one."""
        own, *others = [self._begun(text).result() for text in self._texts(condition)]
        null = others[0] if others else self._reader.zeros()
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

    def _texts(self, condition: Condition) -> list[_Text]:
        """The prompt, and the negative one unless it is zeros; each with its `clip_skip`."""
        prompt = condition.prompt or Prompt("")
        own = prompt.text, prompt.clip_skip
        return [own] if self._zeros and not prompt.negative else [own, (prompt.negative, 0)]

    def _begun(self, text: _Text) -> "Future[Encoded]":
        """One text, (1, tokens, dim), as it is known or will be; one that failed is tried again."""
        known = self._known.get(text)
        if known is None or (known.done() and known.exception()):
            self._known[text] = self._encoding(text)
            while len(self._known) * self._each > _CACHE_BYTES and len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(text)
        return self._known[text]

    def _encoding(self, text: _Text) -> "Future[Encoded]":
        if self._beside:
            return self._thread.submit(self._reader.encode, [text[0]], text[1])
        made = Future[Encoded]()
        made.set_result(self._reader.encode([text[0]], text[1]))
        return made


def _bytes(encoded: Encoded) -> int:
    return encoded.context.nbytes + (0 if encoded.pooled is None else encoded.pooled.nbytes)
