"""Slots, steps and decoding: the one file of the service that knows tensors.

A runner holds one model. What a slot is at is the scheduler's to say; what it looks like is here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.engine.job import ModelInfo, Params, Pixels
from app.engine.scheduler import Slot
from models.checkpoint import weights_digest
from models.pipeline import LatentDiffusion, to_uint8
from models.schedule import timestep_pairs


@dataclass
class _Row:
    """One image on its way: its latent, and everything that is its own."""

    x: Tensor
    generator: torch.Generator
    pairs: list[tuple[int, int]]
    params: Params


class Runner:
    """One model on its device, and the images in flight."""

    def __init__(self, name: str, model: LatentDiffusion, digest: str) -> None:
        self.model = model
        self._rows: dict[int, _Row] = {}
        width, height = model.image_size
        self.info = ModelInfo(
            name=name,
            classes=model.classes.names,
            null_class=model.classes.null,
            width=width,
            height=height,
            max_steps=model.schedule.num_train_timesteps,
            guidance_scale=model.guidance_scale,
            digest=digest,
        )

    @classmethod
    def open(cls, name: str, folder: Path, device: str, dtype: str) -> "Runner":
        """Load a model folder; raises `CheckpointError`."""
        model = LatentDiffusion.open(folder, device=device, dtype=getattr(torch, dtype))
        return cls(name, model, weights_digest(folder / "unet")[:10])

    def warm_up(self) -> None:
        """Make one image of one step, so that the first request does not pay for start-up.

        Raises:
            ValueError: the image is not finite; the message names the model.
        """
        label = 0 if self.info.classes else None
        try:
            self.model.sample([label], [0], steps=1, guidance_scale=2.0)
        except ValueError as error:
            raise ValueError(f"{self.info.name}: {error}, in {self.model.dtype}") from error

    def start(self, slot: Slot) -> None:
        """Put an image's initial noise into its slot."""
        params = slot.job.params
        x, generator = self.model.start(params.seed_of(slot.image))
        pairs = timestep_pairs(self.model.schedule, params.steps)
        self._rows[slot.index] = _Row(x.to(self.model.device), generator, pairs, params)

    def step(self, slots: Sequence[Slot]) -> None:
        """One DDIM step of every slot, all in one batch."""
        rows = [self._rows[slot.index] for slot in slots]
        x = self.model.step(
            torch.stack([row.x for row in rows]),
            [row.pairs[slot.step] for row, slot in zip(rows, slots, strict=True)],
            [row.params.class_index for row in rows],
            [row.params.guidance_scale for row in rows],
            [row.params.eta for row in rows],
            [row.generator for row in rows],
        )
        for row, latent in zip(rows, x, strict=True):
            row.x = latent

    def finish(self, slots: Sequence[Slot]) -> list[Pixels | None]:
        """Decode finished slots and empty them; None for an image that is not finite."""
        if not slots:
            return []
        latents = torch.stack([self._rows.pop(slot.index).x for slot in slots])
        images = self.model.decode(latents)
        sound = images.flatten(1).isfinite().all(dim=1).tolist()
        return [
            pixels if finite else None
            for pixels, finite in zip(to_pixels(images), sound, strict=True)
        ]

    def drop(self, slots: Sequence[Slot]) -> None:
        """Empty slots whose job ended early."""
        for slot in slots:
            self._rows.pop(slot.index, None)


def to_pixels(images: Tensor) -> list[Pixels]:
    """Images in [-1, 1], (B, C, H, W) -> what the rest of the service knows of them."""
    made = []
    for pixels in to_uint8(images):
        height, width, channels = pixels.shape
        made.append(Pixels(width, height, channels, pixels.numpy().tobytes()))
    return made
