"""From the clean latents that steps predict to small pictures, while later ticks run."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Decoding
from app.engine.decoding import to_pixels
from app.engine.job import Image
from app.engine.results import Pixels
from models.preview import LatentPreview

Shown = tuple[Image, int]  # an image, and the evaluation it is shown after


class Previews:
    """Latents that are to be shown, and the pictures of them; none until there is a map."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.map: LatentPreview | None = None  # fitted to the decoder at warm-up
        self._waiting: list[tuple[Shown, Tensor]] = []
        self._begun: list[tuple[list[Shown], Decoding]] = []

    def add(self, shown: Sequence[Shown], latents: Sequence[Tensor]) -> None:
        """Clean latents, each (C, h, w)."""
        self._waiting += zip(shown, latents, strict=True)

    def take(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        """Pictures that came out since; with `wait`, all of them."""
        if self._waiting and self.map is not None:
            waiting, self._waiting = self._waiting, []
            pictures = self.map(torch.stack([latent for _, latent in waiting]))
            self._begun.append(([shown for shown, _ in waiting], self._backend.fetch(pictures)))
        made: list[tuple[Image, int, Pixels]] = []
        while self._begun and (wait or self._begun[0][1].done()):
            shown, fetched = self._begun.pop(0)
            made += [
                (image, evaluation, pixels)
                for (image, evaluation), pixels in zip(
                    shown, to_pixels(fetched.images()[0]), strict=True
                )
            ]
        return made
