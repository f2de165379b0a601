"""PyTorch as it is: any device, no preparation."""

import torch
from torch import Tensor

from app.engine.backends.base import (
    WHOLE,
    Decoded,
    Decoding,
    InOrder,
    Part,
    Rows,
    Slots,
    advance,
    develop,
    unet_network,
)
from app.engine.backends.compiling import compile_unet
from models.pipeline import LatentDiffusion


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
        self._model, self._network = model, unet_network(model)

    def prepare(self) -> None:
        """Nothing: there is nothing to prepare."""

    def step(self, slots: Slots, rows: Rows, _part: Part = WHOLE) -> None:
        """Make one step."""
        advance(slots, rows.to(slots.x.device), self._network, self._model)

    def decode(self, latents: Tensor, _part: int = 0) -> Decoding:
        """Decode at once."""
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
