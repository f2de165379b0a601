"""Slots, steps and decoding: the tensors of one model.

The scheduler decides which images ride and when; this file knows what a slot holds.
"""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Decoding, Rows, Slots, device_errors
from app.engine.backends.choice import pick_backend
from app.engine.backends.hardware import device_name, platform_of
from app.engine.backends.measure import (
    NOT_FINITE,
    UNMEASURED,
    Measured,
    fit_preview,
    measure,
)
from app.engine.costs import Costs
from app.engine.job import DeviceLost, Image, ModelInfo, OutOfMemory, Pixels
from app.engine.shares import with_reserve
from app.engine.wire import Load
from models.checkpoint import checkpoint_digest
from models.pipeline import BLOCK_ROWS, LatentDiffusion, pick_device
from models.preview import LatentPreview
from models.schedule import timestep_pairs

log = logging.getLogger(__name__)

_SLOTS = 64  # where neither settings nor the largest bucket say more


class Runner:
    """One model on its device, and the images in flight."""

    def __init__(
        self, name: str, model: LatentDiffusion, digest: str, backend: Backend, slots: int | None
    ) -> None:
        """Room for `slots` images of one client; by the largest bucket if None."""
        self._name, self._model, self._digest, self._backend = name, model, digest, backend
        self._asked = slots
        slots = max(with_reserve(slots or max(_SLOTS, *backend.buckets)), *backend.buckets)
        # Two more than there are: one that padding reads, and one where it writes.
        self._blank, self._waste = slots, slots + 1
        self._slots = Slots.of(slots + 2, model)
        self._generators: dict[int, torch.Generator] = {}
        self._pairs = functools.lru_cache(64)(lambda steps: timestep_pairs(model.schedule, steps))
        self._starting: list[tuple[int, Tensor]] = []
        self._finishing: list[Image] = []
        self._finished: list[tuple[Image, Tensor]] = []
        self._decoding: tuple[list[tuple[Image, Tensor]], Decoding] | None = None
        self._decode_buckets = UNMEASURED.decode_buckets
        self._sketch: LatentPreview | None = None  # fitted to the decoder at warm-up
        self._wanted: list[tuple[Image, int]] = []  # previews, with the step they are of
        self._unsketched: list[tuple[Image, int, Tensor]] = []  # their x0
        self._sketching: list[tuple[list[tuple[Image, int]], Decoding]] = []
        self.info = self._describe(UNMEASURED)

    @classmethod
    def open(cls, name: str, folder: Path, load: Load) -> "Runner":
        """Load a model folder; raises `CheckpointError`, or `ValueError` for a wrong device.

        Notes on what the folder has that is ignored, or lacks and is assumed, are logged: in a
        server by its worker, on the command line to standard error.
        """
        tf32 = load.dtype == "tf32"
        dtype = torch.float32 if tf32 else getattr(torch, load.dtype)
        # A GPU has to have memory for one row only: the backend has as many more as it can.
        block_rows = 1 if pick_device(load.device).type == "cuda" else BLOCK_ROWS
        model = LatentDiffusion.open(
            folder, device=load.device, dtype=dtype, tf32=tf32, block_rows=block_rows
        )
        for note in model.notes:
            log.warning("%s: %s", name, note)
        backend = pick_backend(model, load.backend, compiled=load.compile)
        return cls(name, model, checkpoint_digest(folder), backend, load.slots)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Measure the backend, and use what of it is exact.

        Raises:
            ValueError: a step is not finite, or there is no memory for one; the message names the
                model.
        """
        try:
            measured = measure(self._backend, self._model, self._slots, waste=self._waste)
        except ValueError as error:
            raise ValueError(f"{self._name}: {error}") from error
        except OutOfMemory as error:
            raise ValueError(f"{self._name}: out of memory even for the smallest tick") from error
        self._decode_buckets = measured.decode_buckets
        self.info = self._describe(measured)
        self._sketch = fit_preview(
            self._backend, self._model, self._slots, measured, waste=self._waste
        )

    @torch.inference_mode()
    def start(self, image: Image) -> None:
        """Draw an image's initial noise, for its slot."""
        noise, generator = self._model.start(image.job.params.seed_of(image.index))
        self._starting.append((image.slot, noise))
        self._generators[image.slot] = generator

    @torch.inference_mode()
    def step(self, images: Sequence[Image], rows: int) -> None:
        """Begin one DDIM step of these images, all or none, in a bucket of `rows`.

        Raises:
            OutOfMemory: with fewer it may succeed.
            DeviceLost: nothing will, in this process.
        """
        drawn = [self._generators[image.slot] for image in images if image.job.params.eta]
        states = [generator.get_state() for generator in drawn]
        tick = self._rows(images, rows)  # made while the last one is still under way
        try:
            with device_errors():
                self._settle()
                self._backend.step(self._slots, tick)
        except Exception:  # it will be tried again, with the same noise
            for generator, state in zip(drawn, states, strict=True):
                generator.set_state(state)
            raise

    @torch.inference_mode()
    def decode(self, images: Sequence[Image]) -> None:
        """Decode images that are in their last step, as soon as it is done."""
        self._finishing += images

    def preview(self, images: Sequence[Image]) -> None:
        """Keep the x0 of these images at the step begun last, for previews."""
        self._wanted += [(image, image.step) for image in images]

    @torch.inference_mode()
    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        """Previews of finished steps, each with its step; with `wait`, all that were kept."""
        if self._unsketched and self._sketch is not None:
            kept, self._unsketched = self._unsketched, []
            images = self._sketch(torch.stack([x0 for *_, x0 in kept]))
            wanted = [(image, step) for image, step, _ in kept]
            self._sketching.append((wanted, self._backend.fetch(images)))
        made = []
        while self._sketching and (wait or self._sketching[0][1].done()):
            wanted, sketches = self._sketching.pop(0)
            for (image, step), pixels in zip(wanted, to_pixels(sketches.images()[0]), strict=True):
                made.append((image, step, pixels))
        return made

    @torch.inference_mode()
    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        """Images that came out since, or the reason why one cannot."""
        settled = wait or self._backend.done()
        if settled:  # the last step may be the last there is: no other will see to it
            with device_errors():
                self._settle()
        if self._decoding is None or not (wait or self._decoding[1].done()):
            return []
        batch, decoding = self._decoding
        self._decoding = None
        try:
            with device_errors():
                made = _results(decoding, len(batch))
        except DeviceLost:
            raise
        except Exception:  # decoded one by one, only those fail that have to
            made = [self._decode_alone(latent) for _, latent in batch]
        if settled:
            self._decode_next()
        return [(image, result) for (image, _), result in zip(batch, made, strict=True)]

    def _settle(self) -> None:
        """Take what the last step finished out of its slots, and put what starts into them."""
        x = self._slots.x
        if self._finishing or self._starting or self._finished or self._wanted:
            self._backend.settle()
        x0 = self._slots.x0
        self._unsketched += [(image, step, x0[image.slot].clone()) for image, step in self._wanted]
        self._wanted = []
        self._finished += [(image, x[image.slot].clone()) for image in self._finishing]
        self._finishing = []
        for slot, noise in self._starting:
            x[slot] = noise.to(x.device, non_blocking=True)
        self._starting = []
        self._decode_next()

    def _decode_next(self) -> None:
        """Begin on what is finished, as many as fit, unless some are being decoded."""
        if self._decoding is not None or not self._finished:
            return
        largest = self._decode_buckets[-1]
        batch, self._finished = self._finished[:largest], self._finished[largest:]
        try:
            with device_errors():
                decoding = self._begin([latent for _, latent in batch])
        except DeviceLost:
            raise
        except Exception as error:  # told when the images are asked for
            decoding = _Broken(error)
        self._decoding = batch, decoding

    def _begin(self, latents: Sequence[Tensor]) -> Decoding:
        size = next(size for size in self._decode_buckets if size >= len(latents))
        padded = [*latents, *[self._slots.x[self._blank]] * (size - len(latents))]
        return self._backend.decode(torch.stack(padded))

    def _decode_alone(self, latent: Tensor) -> Pixels | str:
        try:
            with device_errors():
                return _results(self._begin([latent]), 1)[0]
        except DeviceLost:
            raise
        except Exception as error:
            return f"{type(error).__name__} in the decoder"

    def _describe(self, measured: Measured) -> ModelInfo:
        """What the server may know of this model."""
        model, costs = self._model, Costs(measured.buckets)
        platform = platform_of(model.device, self._backend.name)
        width, height = model.image_size
        return ModelInfo(
            name=self._name,
            classes=model.classes.names,
            null_class=model.classes.null,
            width=width,
            height=height,
            max_steps=model.schedule.num_train_timesteps,
            guidance_scale=model.guidance_scale,
            digest=self._digest,
            backend=self._backend.name,
            device=device_name(model.device),
            dtype=model.precision,
            exact=measured.exact,
            costs=costs,
            platform=f"{platform}, rounding {measured.rounding}",
            blocks=measured.blocks,
            slots=self._asked or max(_SLOTS, costs.buckets[-1].rows),
        )

    def _rows(self, images: Sequence[Image], size: int) -> Rows:
        """The tick as tensors on the CPU."""
        labels = self._model.classes
        guided = [i for i, image in enumerate(images) if image.rows == 2]
        count, padding = len(images), size - len(images) - len(guided)
        order = [*range(count), *guided]
        slots = [image.slot for image in images]
        pairs = [self._pairs(image.job.params.steps)[image.step] for image in images]
        unconditional = labels.null or 0
        classes = [
            unconditional if (index := image.job.params.class_index) is None else index
            for image in images
        ]
        null = list(range(size))
        scale, eta = [1.0] * size, [0.0] * size
        for k, i in enumerate(guided):
            null[i] = count + k
            scale[i] = images[i].job.params.guidance_scale
        noise = None
        if any(image.job.params.eta for image in images):
            noise = torch.zeros(size, *self._model.latent_shape)
            for i, image in enumerate(images):
                eta[i] = image.job.params.eta
                if eta[i]:
                    noise[i].normal_(generator=self._generators[image.slot])
        return Rows(
            read=torch.tensor([*(slots[i] for i in order), *[self._blank] * padding]),
            write=torch.tensor([*slots, *[self._waste] * (size - count)]),
            t=torch.tensor([*(pairs[i][0] for i in order), *[0] * padding]),
            t_prev=torch.tensor([*(t_prev for _, t_prev in pairs), *[-1] * (size - count)]),
            label=torch.tensor([*classes, *[unconditional] * (size - count)]),
            null=torch.tensor(null),
            scale=torch.tensor(scale),
            eta=torch.tensor(eta),
            noise=noise,
        )


@dataclass(frozen=True)
class _Broken:
    """A decoding that did not begin."""

    error: Exception

    def done(self) -> bool:
        """True."""
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
