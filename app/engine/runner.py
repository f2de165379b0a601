"""Slots, steps and decoding: the tensors of one model.

The scheduler decides which images ride and when; this file knows what a slot holds.
"""

import functools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Decoding, Part, Rows, Slots, device_errors
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
from app.engine.errors import DeviceLost, OutOfMemory
from app.engine.job import Image
from app.engine.model_info import ModelInfo
from app.engine.parts import divide
from app.engine.results import Pixels
from app.engine.shares import with_reserve
from app.engine.wire import Load
from models.checkpoint import checkpoint_digest
from models.config import DDIMConfig
from models.ddim import COEFFICIENTS, trajectory
from models.pipeline import BLOCK_ROWS, LatentDiffusion, pick_device
from models.preview import LatentPreview
from models.sizes import Sizes

log = logging.getLogger(__name__)

_DECODED = 8  # images that a part decodes before a step, at most; it ends the batch it is at
_NO_STEP = [0.0] * COEFFICIENTS  # of padding
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
        self._trajectory = functools.lru_cache(64)(functools.partial(_listed, model.schedule))
        self._taken: dict[int, list[tuple[int, list[float]]]] = {}  # by slot, the image's steps
        self._starting: dict[int, Tensor] = {}  # by slot, the noise that goes there
        self._aloft: dict[int, int] = {}  # by slot in a step not settled, the part that steps it
        self._parts = 1  # of the last tick
        self._finishing: list[Image] = []
        self._finished: list[tuple[Image, Tensor]] = []
        self._decoding: dict[int, tuple[list[tuple[Image, Tensor]], Decoding]] = {}  # by part
        self._decoded: list[tuple[Image, Pixels | str]] = []
        self._decode_buckets = UNMEASURED.decode_buckets
        self._sketch: LatentPreview | None = None  # fitted to the decoder at warm-up
        self._wanted: list[tuple[Image, int]] = []  # previews, with the step they are of
        self._unsketched: list[tuple[Image, int, Tensor]] = []  # their x0
        self._sketching: list[tuple[list[tuple[Image, int]], Decoding]] = []
        self.begun = 0.0  # when the first part of the last step began; time.perf_counter()
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

    def at(self, width: int, height: int) -> "Runner":
        """A runner of another image size, not warm, over the same networks."""
        raise ValueError(f"{self._name}: {width}x{height} is not a size of this model")

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
        self._starting[image.slot] = noise
        self._generators[image.slot] = generator
        params = image.job.params
        self._taken[image.slot] = self._trajectory(params.steps, params.eta)

    @torch.inference_mode()
    def step(self, images: Sequence[Image], rows: int) -> None:
        """Begin one DDIM step of these images, all or none, in a bucket of `rows`.

        Each part of the tick begins as soon as the same part of the last one is settled.

        Raises:
            OutOfMemory: with fewer it may succeed.
            DeviceLost: nothing will, in this process.
        """
        count = self._backend.parts(rows)
        shares = divide(images, count, rows // count, self._aloft)
        drawn = [self._generators[image.slot] for image in images if image.job.params.eta]
        states = [generator.get_state() for generator in drawn]
        ticks = [self._rows(share, rows // count) for share in shares]  # while the last one runs
        begun = False
        try:
            with device_errors():
                if count != self._parts or self._mixed(shares):
                    self._settle(range(self._parts))
                self._parts = count
                for part in self._in_turn([k for k, share in enumerate(shares) if share]):
                    began = time.perf_counter()
                    self._backend.step(self._slots, ticks[part], Part(part, count))
                    self._aloft |= {image.slot: part for image in shares[part]}
                    if not begun:  # what is the first to begin is the first to end
                        self.begun = began
                    begun = True
        except Exception as error:  # it will be tried again, with the same noise
            if begun:
                raise DeviceLost(f"only parts of a tick were begun: {error}") from error
            for generator, state in zip(drawn, states, strict=True):
                generator.set_state(state)
            raise

    @torch.inference_mode()
    def settle(self) -> None:
        """Wait until the device has made the step begun last; decoding may go on.

        Raises:
            DeviceLost: it was not made.
        """
        with device_errors():
            self._settle(range(self._parts))
            self._backend.synchronize()

    @torch.inference_mode()
    def decode(self, images: Sequence[Image]) -> None:
        """Decode images that are in their last step, as soon as it is done."""
        self._finishing += images
        self._collect()

    @torch.inference_mode()
    def preview(self, images: Sequence[Image]) -> None:
        """Keep the x0 of these images at the step begun last, for previews."""
        self._wanted += [(image, image.evaluation) for image in images]
        self._collect()

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
        for part in range(self._parts):  # the last step may be the last there is
            if wait or self._backend.done(part):
                with device_errors():
                    self._settle([part])
                self._decode_next(part)
        for part, (_, decoding) in list(self._decoding.items()):
            if decoding.done() or (wait and not self._decoded):
                self._take_decoded(part)
        made, self._decoded = self._decoded, []
        return made

    def _in_turn(self, parts: Iterable[int]) -> Iterator[int]:
        """These parts, each when it has done its last step and what it was then given to decode."""
        waiting, decoded = set(parts), Counter[int]()
        while waiting:
            part = self._backend.first(waiting)
            self._settle([part])
            count = self._decode_next(part) if decoded[part] < _DECODED else 0
            decoded[part] += count
            if not count:
                waiting.remove(part)
                yield part

    def _mixed(self, shares: Sequence[Sequence[Image]]) -> bool:
        """Whether a part has images that another one still steps."""
        return any(
            self._aloft.get(image.slot, part) != part
            for part, share in enumerate(shares)
            for image in share
        )

    def _settle(self, parts: Iterable[int]) -> None:
        """Let parts finish their steps; take what is ready out of slots, put in what starts."""
        for part in parts:
            self._backend.settle(part)
            self._aloft = {slot: at for slot, at in self._aloft.items() if at != part}
        self._collect()
        if ready := [slot for slot in self._starting if slot not in self._aloft]:
            noise = torch.stack([self._starting[slot] for slot in ready])
            send = self._backend.send
            self._slots.x.index_copy_(0, send(torch.tensor(ready)), send(noise))
            for slot in ready:  # not before: it may have to be tried again
                del self._starting[slot]

    def _collect(self) -> None:
        """Take finished latents, and x0 that are wanted, out of slots that no step is using."""
        waiting: list[Image] = []
        ready: list[Image] = []
        for image in self._finishing:
            (waiting if image.slot in self._aloft else ready).append(image)
        copies = self._copies(self._slots.x, ready)
        self._finishing = waiting
        self._finished += zip(ready, copies, strict=True)
        shown = [wanted for wanted in self._wanted if wanted[0].slot not in self._aloft]
        copies = self._copies(self._slots.x0, [image for image, _ in shown])
        self._wanted = [wanted for wanted in self._wanted if wanted[0].slot in self._aloft]
        self._unsketched += [(*wanted, x0) for wanted, x0 in zip(shown, copies, strict=True)]

    def _copies(self, slots: Tensor, images: Sequence[Image]) -> Sequence[Tensor]:
        """What these images have in their slots, as it is now."""
        if not images:
            return ()
        places = torch.tensor([image.slot for image in images])
        return slots[self._backend.send(places)].unbind()

    def _decode_next(self, part: int) -> int:
        """Begin to decode what is finished, unless this part is decoding; how many images."""
        if part in self._decoding:
            if not self._decoding[part][1].done():
                return 0
            self._take_decoded(part)
        if not self._finished:
            return 0
        largest = self._decode_buckets[-1]
        batch, self._finished = self._finished[:largest], self._finished[largest:]
        try:
            with device_errors():
                decoding = self._begin([latent for _, latent in batch], part)
        except DeviceLost:
            raise
        except Exception as error:  # told when the images are asked for
            decoding = _Broken(error)
        self._decoding[part] = batch, decoding
        return len(batch)

    def _take_decoded(self, part: int) -> None:
        """Wait for what a part decodes."""
        batch, decoding = self._decoding.pop(part)
        try:
            with device_errors():
                made = _results(decoding, len(batch))
        except DeviceLost:
            raise
        except Exception:  # decoded one by one, only those fail that have to
            made = [self._decode_alone(latent, part) for _, latent in batch]
        self._decoded += [(image, result) for (image, _), result in zip(batch, made, strict=True)]

    def _begin(self, latents: Sequence[Tensor], part: int) -> Decoding:
        size = next(size for size in self._decode_buckets if size >= len(latents))
        padded = [*latents, *[self._slots.x[self._blank]] * (size - len(latents))]
        return self._backend.decode(torch.stack(padded), part)

    def _decode_alone(self, latent: Tensor, part: int) -> Pixels | str:
        try:
            with device_errors():
                return _results(self._begin([latent], part), 1)[0]
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
            classes=model.classes,
            sizes=Sizes(width, height),
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

    def _step_of(self, image: Image) -> tuple[int, list[float]]:
        """The timestep and the coefficients of an image's next step."""
        return self._taken[image.slot][image.evaluation]

    def _rows(self, images: Sequence[Image], size: int) -> Rows:
        """The tick as tensors on the CPU."""
        labels = self._model.classes
        guided = [i for i, image in enumerate(images) if image.rows == 2]
        count, padding = len(images), size - len(images) - len(guided)
        order = [*range(count), *guided]
        slots = [image.slot for image in images]
        steps = [self._step_of(image) for image in images]
        unconditional = labels.null or 0
        classes = [
            unconditional if (index := image.job.params.condition.index) is None else index
            for image in images
        ]
        null = list(range(size))
        scale = [1.0] * size
        for k, i in enumerate(guided):
            null[i] = count + k
            scale[i] = images[i].job.params.guidance_scale
        noise = None
        if any(image.job.params.eta for image in images):
            noise = torch.zeros(size, *self._model.latent_shape)
            for i, image in enumerate(images):
                if image.job.params.eta:
                    noise[i].normal_(generator=self._generators[image.slot])
        return Rows(
            read=torch.tensor([*(slots[i] for i in order), *[self._blank] * padding]),
            write=torch.tensor([*slots, *[self._waste] * (size - count)]),
            t=torch.tensor([*(steps[i][0] for i in order), *[0] * padding]),
            label=torch.tensor([*classes, *[unconditional] * (size - count)]),
            null=torch.tensor(null),
            scale=torch.tensor(scale),
            steps=torch.tensor([*(taken for _, taken in steps), *[_NO_STEP] * (size - count)]),
            noise=noise,
        )


def _listed(schedule: DDIMConfig, steps: int, eta: float) -> list[tuple[int, list[float]]]:
    """The timestep and the coefficients of every step."""
    timesteps, taken = trajectory(schedule, steps, eta)
    return list(zip(timesteps, taken.tolist(), strict=True))


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
