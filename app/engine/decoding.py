"""From finished latents to pixels, in batches, on whichever part of the device is free."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Decoding, device_errors
from app.engine.backends.measure import NOT_FINITE
from app.engine.errors import DeviceLost
from app.engine.job import Image
from app.engine.results import Pixels


class Decoder:
    """Finished latents, and what came of them. `blank` is a latent that fills batches up."""

    def __init__(self, backend: Backend, blank: Tensor, buckets: Sequence[int]) -> None:
        self._backend, self._blank = backend, blank
        self.buckets = buckets
        self._waiting: list[tuple[Image, Tensor]] = []
        self._begun: dict[int, tuple[list[tuple[Image, Tensor]], Decoding]] = {}  # by part
        self._made: list[tuple[Image, Pixels | str]] = []

    def add(self, images: Sequence[Image], latents: Sequence[Tensor]) -> None:
        """Images that have made their last step, with what it made of them."""
        self._waiting += zip(images, latents, strict=True)

    def begin(self, part: int) -> int:
        """Begin a batch, unless this part is decoding or nothing waits; how many images."""
        if part in self._begun:
            if not self._begun[part][1].done():
                return 0
            self._take(part)
        if not self._waiting:
            return 0
        largest = self.buckets[-1]
        batch, self._waiting = self._waiting[:largest], self._waiting[largest:]
        try:
            with device_errors():
                decoding = self._decode([latent for _, latent in batch], part)
        except DeviceLost:
            raise
        except Exception as error:  # told when the images are asked for
            decoding = _Broken(error)
        self._begun[part] = batch, decoding
        return len(batch)

    def take(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        """Images that came out since, or the reason why one cannot; with `wait`, at least one."""
        for part, (_, decoding) in list(self._begun.items()):
            if decoding.done() or (wait and not self._made):
                self._take(part)
        made, self._made = self._made, []
        return made

    def _take(self, part: int) -> None:
        """Wait for what a part decodes."""
        batch, decoding = self._begun.pop(part)
        try:
            with device_errors():
                made = _results(decoding, len(batch))
        except DeviceLost:
            raise
        except Exception:  # decoded one by one, only those fail that have to
            made = [self._alone(latent, part) for _, latent in batch]
        self._made += [(image, result) for (image, _), result in zip(batch, made, strict=True)]

    def _decode(self, latents: Sequence[Tensor], part: int) -> Decoding:
        size = next(size for size in self.buckets if size >= len(latents))
        padded = [*latents, *[self._blank] * (size - len(latents))]
        return self._backend.decode(torch.stack(padded), part)

    def _alone(self, latent: Tensor, part: int) -> Pixels | str:
        try:
            with device_errors():
                return _results(self._decode([latent], part), 1)[0]
        except DeviceLost:
            raise
        except Exception as error:
            return f"{type(error).__name__} in the decoder"


@dataclass(frozen=True)
class _Broken:
    """A decoding that did not begin."""

    error: Exception

    def done(self) -> bool:
        """From the beginning: there is nothing to wait for."""
        return True

    def images(self) -> tuple[Tensor, Tensor]:
        """Raise what kept it from beginning."""
        raise self.error


def to_pixels(images: Tensor) -> list[Pixels]:
    """Pixels (B, H, W, C) uint8 on the CPU -> what the rest of the service knows of them."""
    height, width, channels = images.shape[1:]
    return [Pixels(width, height, channels, image.numpy().tobytes()) for image in images]


def _results(decoding: Decoding, count: int) -> list[Pixels | str]:
    """The first `count` images; a reason in place of one that is not finite."""
    images, sums = decoding.images()
    sound = sums[:count].isfinite().tolist()
    made = to_pixels(images[:count])
    return [pixels if finite else NOT_FINITE for pixels, finite in zip(made, sound, strict=True)]
