"""A tick as tensors, and the interface of all backends."""

import contextlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from app.engine.errors import DeviceLost, OutOfMemory
from models.ddim import ddim_step, guide
from models.pipeline import LatentDiffusion, to_uint8

# What says that there is no memory, besides the classes for it. cuDNN looks for a way to compute a
# convolution, and leaves out those that need more memory than there is.
_NO_MEMORY = ("out of memory", "allocate memory", "_ALLOC_FAILED", "unable to find an engine")

# (rows of latents, (B, C, h, w) float32; timesteps (B,); labels (B,)) -> prediction, float32.
Network = Callable[[Tensor, Tensor, Tensor], Tensor]


class TooLittleMemory(ValueError):
    """A backend needs more memory than there is; the message says how much."""


@dataclass(frozen=True)
class Slots:
    """Room for the images in flight, (slots, C, h, w) float32 each, on the device."""

    x: Tensor  # latents
    x0: Tensor  # the clean latents that the last step predicted

    @classmethod
    def of(cls, count: int, model: LatentDiffusion) -> "Slots":
        """Empty slots, `count` of them."""
        x = torch.zeros(count, *model.latent_shape, device=model.device)
        return cls(x, torch.zeros_like(x))


@dataclass(frozen=True)
class Part:
    """Number `index` of the `of` equal parts that a tick is run in, each beside the others."""

    index: int
    of: int


WHOLE = Part(0, 1)


@dataclass(frozen=True)
class Rows:
    """A tick, or one part of it, of R rows; every tensor has R entries.

    Rows 0..I-1 are the images that ride. Then come the second, unconditional rows of the guided
    images. The rest is padding. Only the first I rows are written back.
    """

    read: Tensor  # int64: the slot whose latent the row reads
    write: Tensor  # int64: the slot it is written to; for padding, one that nobody reads
    t: Tensor  # int64 timesteps
    label: Tensor  # int64 classes
    null: Tensor  # int64: the row with this image's unconditional prediction; its own where none
    scale: Tensor  # float32 guidance scales
    steps: Tensor  # (R, 6) float32: the coefficients of the rows' steps; see models.ddim
    noise: Tensor | None  # (R, C, h, w) float32; None where no step adds any

    def to(self, device: torch.device) -> "Rows":
        """The same on a device."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: v.to(device) for k, v in tensors.items() if v is not None})


class Decoding(Protocol):
    """Images on their way out of the VAE."""

    def done(self) -> bool:
        """Whether `images` would return at once."""

    def images(self) -> tuple[Tensor, Tensor]:
        """Pixels (B, H, W, C) uint8 and the (B,) sums of `develop`, on the CPU."""


class Backend(Protocol):
    """Runs steps and decodes on one device.

    What is begun on one part of it is done in order; parts wait for each other only where the
    caller makes them.
    """

    name: str
    buckets: tuple[int, ...]  # numbers of rows it can run a tick with, ascending
    decode_buckets: tuple[int, ...]

    def prepare(self) -> None:
        """Prepare every bucket; otherwise each is prepared when it is first used."""

    def parts(self, bucket: int, /) -> int:
        """In how many parts a tick of this bucket is run; each has an even share of its rows."""

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE, /) -> None:
        """Begin one step of the slots that `rows` writes, on a part whose last step is settled."""

    def first(self, parts: Collection[int], /) -> int:
        """Wait until one of these parts can begin something; which."""

    def done(self, part: int, /) -> bool:
        """Whether `settle` would return at once."""

    def settle(self, part: int, /) -> None:
        """Return when the slots of this part's last step may be read and written."""

    def decode(self, latents: Tensor, part: int = 0, /) -> Decoding:
        """Begin to decode latents, as many as a bucket has, on a part that can begin something."""

    def fetch(self, images: Tensor) -> Decoding:
        """Begin to turn images (B, C, H, W) into pixels on the host."""

    def send(self, values: Tensor) -> Tensor:
        """A tensor of the host on the device; does not wait for what was begun."""

    def synchronize(self) -> None:
        """Wait until every step that was begun is done."""


class InOrder:
    """Where the device itself does in order whatever it is given: one part, nothing to wait for."""

    def parts(self, _bucket: int) -> int:
        """One."""
        return 1

    def first(self, parts: Collection[int]) -> int:
        """The only one."""
        return next(iter(parts))

    def done(self, _part: int) -> bool:
        """True: `settle` never waits."""
        return True

    def settle(self, _part: int) -> None:
        """Nothing: what is begun next, comes after."""


@dataclass(frozen=True)
class Decoded:
    """Images that are there already."""

    made: tuple[Tensor, Tensor]

    def done(self) -> bool:
        """True."""
        return True

    def images(self) -> tuple[Tensor, Tensor]:
        """What was made."""
        return self.made


def advance(slots: Slots, rows: Rows, network: Network, model: LatentDiffusion) -> None:
    """One tick: a UNet row for every row, guidance, then DDIM; eq. 12 of Song et al. 2021."""
    latents = slots.x[rows.read]
    update(slots, rows, latents, network(latents, rows.t, rows.label), model)


def update(
    slots: Slots, rows: Rows, latents: Tensor, output: Tensor, model: LatentDiffusion
) -> None:
    """The rest of a tick, after the UNet's forward pass."""
    output = guide(output, output[rows.null], rows.scale)
    schedule = model.schedule
    slots.x[rows.write], slots.x0[rows.write] = ddim_step(
        latents,
        output,
        rows.steps,
        noise=rows.noise,
        clip=schedule.clip_sample_range if schedule.clip_sample else None,
    )


def develop(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images of the VAE, (B, C, H, W) -> pixels (B, H, W, C) uint8 and (B,) float64 sums.

    A sum is finite if its image is, and it tells apart images that differ in their last bits.
    """
    return to_uint8(images), images.double().flatten(1).sum(dim=1)


def unet_network(model: LatentDiffusion) -> Network:
    """The model's UNet in its own dtype, called with float32 latents."""
    unet, labelled = model.unet, model.unet.class_embedding is not None

    def network(latents: Tensor, t: Tensor, label: Tensor) -> Tensor:
        inputs = latents.to(model.dtype), t
        output: Tensor = unet(*inputs, label) if labelled else unet(*inputs)
        return output.to(torch.float32)

    return network


def out_of_memory(error: Exception) -> bool:
    """Whether there was no memory, on the device or on the host."""
    if isinstance(error, RuntimeError):  # also of PyTorch's own classes
        return isinstance(error, torch.OutOfMemoryError) or any(
            text in str(error) for text in _NO_MEMORY
        )
    return isinstance(error, MemoryError | OutOfMemory)


@contextlib.contextmanager
def device_errors() -> Iterator[None]:
    """Separate the errors that a device recovers from, and those that it does not."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if out_of_memory(error):
            raise OutOfMemory(str(error)) from error
        if isinstance(error, torch.AcceleratorError):
            raise DeviceLost(str(error)) from error
        raise
