"""PyTorch as it is: any device, no preparation."""

import copy
import math
from typing import Self

import torch
from torch import Tensor

from app.engine.backends.base import (
    WHOLE,
    Decoded,
    Decoding,
    InOrder,
    Part,
    Rows,
    Shape,
    Slots,
    advance,
    develop,
    useful,
)
from app.engine.backends.compiling import compile_unet
from models.memory import decoding, denoising
from models.pipeline import LatentDiffusion

_ENOUGH = 4 << 30  # bytes of maps in a batch


class Eager(InOrder):
    """Runs the modules; rows of different bucket sizes may differ in their last bits."""

    name = "eager"
    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    decode_buckets: tuple[int, ...] = (1, 4, 16)

    def __init__(self, model: LatentDiffusion, *, compiled: bool = False) -> None:
        """Raises `ValueError` where `compiled` needs what is not installed."""
        if compiled:
            self.name = "eager, compiled"
            compile_unet(model.unet, model.device)
        self._model, self.precision = model, model.precision
        self._open(model.latent_shape)

    def at(self, shape: Shape) -> Self:
        """The same modules: they take any size."""
        made = copy.copy(self)
        made._open(shape)
        return made

    def _open(self, shape: Shape) -> None:
        unet, vae, kind = self._model.unet.config, self._model.vae.config, type(self)
        self.shape = shape
        self.buckets = useful(kind.buckets, denoising(unet, shape[1:]), _ENOUGH)
        each = decoding(vae, math.prod(shape[1:]))
        self.decode_buckets = useful(kind.decode_buckets, each, _ENOUGH)

    def prepare(self) -> None:
        """Return at once: modules need no preparation."""

    def step(self, slots: Slots, rows: Rows, _part: Part = WHOLE) -> None:
        """Make one step before returning."""
        advance(slots, rows.to(slots.x.device), self._model.denoiser)

    def decode(self, latents: Tensor, _part: int = 0) -> Decoding:
        """Decode before returning."""
        vae = self._model.vae
        return self.fetch(vae.decode(latents.to(next(vae.parameters()).dtype)).float())

    def fetch(self, images: Tensor) -> Decoding:
        """Bring pixels to the host."""
        pixels, sums = develop(images)
        return Decoded((pixels.cpu(), sums.cpu()))

    def send(self, values: Tensor) -> Tensor:
        """A copy on the device."""
        return values.to(self._model.device)

    def synchronize(self) -> None:
        """Wait for the device; the CPU is never behind."""
        if self._model.device.type == "cuda":
            torch.cuda.synchronize(self._model.device)
