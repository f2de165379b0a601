"""A tick as tensors, and the interface of all backends."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from app.engine.errors import DeviceLost, OutOfMemory
from models.conditioners import Conditioning
from models.denoiser import Denoiser
from models.pipeline import to_uint8
from models.samplers import HISTORY, clean, guide, step

# What says that there is no memory, besides the classes for it. cuDNN looks for a way to compute a
# convolution, and leaves out those that need more memory than there is.
_NO_MEMORY = ("out of memory", "allocate memory", "_ALLOC_FAILED", "unable to find an engine")

# As `Denoiser`: latents (B, C, h, w), timesteps (B,), conditionings -> prediction, float32.
Network = Callable[..., Tensor]
Shape = tuple[int, int, int]  # (C, h, w) of one latent


class TooLittleMemory(ValueError):
    """A backend needs more memory than there is; the message says how much."""


@dataclass(frozen=True)
class Slots:
    """Room for the images in flight, on the device: what of them outlasts a tick.

    The last slot is for what nobody reads.
    """

    x: Tensor  # latents, (slots, C, h, w) float32
    x0: Tensor  # likewise, the clean latents that the last step shown predicted
    history: Tensor  # (slots, HISTORY, C, h, w) float32: what their samplers remember
    conditioning: Conditioning  # both sides of what the network reads, each (slots, 2, ...)

    @classmethod
    def of(cls, count: int, denoiser: Denoiser, shape: Shape) -> "Slots":
        """Empty slots, `count` of them."""
        x = torch.zeros(count, *shape, device=denoiser.device)
        history = torch.zeros(count, HISTORY, *shape, device=denoiser.device)
        return cls(x, torch.zeros_like(x), history, denoiser.blank(count))

    @property
    def waste(self) -> int:
        """The slot that nobody reads."""
        return len(self.x) - 1

    @property
    def sides(self) -> Conditioning:
        """The conditioning, one side after the other: each (2 * slots, ...)."""
        return tuple(both.flatten(0, 1) for both in self.conditioning)

    def fill(self, places: Tensor, x: Tensor, conditioning: Conditioning) -> None:
        """Let images begin: (n,) int64 slots, their first latents, both sides of what they read.

        The history is emptied: the last owner's may not be finite, and no factor makes that zero.
        """
        self.x.index_copy_(0, places, x)
        self.history.index_fill_(0, places, 0.0)
        for mine, given in zip(self.conditioning, conditioning, strict=True):
            mine.index_copy_(0, places, given)


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
    images. The rest is padding, whose coefficients are zero. Only the first I rows are written
    back.
    """

    read: Tensor  # int64: the slot whose latent and history the row reads
    write: Tensor  # int64: the slot it is written to; the waste for all but images
    side: Tensor  # int64: the side of a conditioning that it reads, 2 * slot, + 1: unconditional
    t: Tensor  # what the network reads of its timestep; see `Backend.times`
    null: Tensor  # int64: the row with this image's unconditional prediction; its own where none
    scale: Tensor  # float32 guidance scales
    coefficients: Tensor  # (R, COEFFICIENTS) float32; see models.samplers
    # int64: where what the row's sampler remembers is kept, slot * HISTORY + place in the ring, in
    # the waste if nowhere. None where no row of the tick reads or keeps any.
    kept: Tensor | None = None
    noise: Tensor | None = None  # (R, C, h, w) float32; None where no step adds any
    shown: bool = False  # whether x0 is kept

    @property
    def plain(self) -> bool:
        """Whether the tick changes nothing but the latents, and without noise."""
        return self.kept is None and self.noise is None and not self.shown

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)


class Decoding(Protocol):
    """Images on their way out of the VAE."""

    def done(self) -> bool:
        """Whether `images` would return at once."""

    def images(self) -> tuple[Tensor, Tensor]:
        """Pixels (B, H, W, C) uint8 and the (B,) sums of `develop`, on the CPU."""


class Backend(Protocol):
    """Runs steps and decodes on one device, for latents of one shape.

    What is begun on one part of it is done in order; parts wait for each other only where the
    caller makes them.
    """

    name: str
    precision: str  # of the network's arithmetic, such as float32 or tf32
    shape: Shape
    buckets: tuple[int, ...]  # numbers of rows it can run a tick with, ascending
    decode_buckets: tuple[int, ...]

    def at(self, shape: Shape, /) -> "Backend":
        """The same networks for latents of another shape.

        Raises:
            ValueError: there is no memory for it.
        """

    def prepare(self) -> None:
        """Prepare every bucket; otherwise each is prepared when it is first used."""

    def parts(self, bucket: int, /) -> int:
        """In how many parts a tick of this bucket is run; each has an even share of its rows."""

    def times(self, timesteps: Sequence[float], /) -> Tensor:
        """What the network reads of some rows' timesteps, (R, ...) on the CPU."""

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
        """A tick is run whole."""
        return 1

    def times(self, timesteps: Sequence[float]) -> Tensor:
        """The timesteps themselves, (R,) float32."""
        return torch.from_numpy(np.array(timesteps, dtype=np.float32))

    def first(self, parts: Collection[int]) -> int:
        """The only part there is."""
        return next(iter(parts))

    def done(self, _part: int) -> bool:
        """At any time, because `settle` never waits."""
        return True

    def settle(self, _part: int) -> None:
        """Return at once: what is begun next comes after."""


@dataclass(frozen=True)
class Decoded:
    """Images that are there already."""

    made: tuple[Tensor, Tensor]

    def done(self) -> bool:
        """From the beginning."""
        return True

    def images(self) -> tuple[Tensor, Tensor]:
        """The pixels and sums that were given."""
        return self.made


def advance(slots: Slots, rows: Rows, network: Network) -> None:
    """One tick: the network for every row, guidance, then the sampler's step."""
    latents = slots.x[rows.read]
    conditioning = [sides[rows.side] for sides in slots.sides]
    update(slots, rows, latents, network(latents, rows.t, *conditioning))


def update(slots: Slots, rows: Rows, latents: Tensor, output: Tensor) -> None:
    """The rest of a tick, after the network's forward pass."""
    output = guide(output, output[rows.null], rows.scale)
    history = None if rows.kept is None else slots.history[rows.read]
    x, y = step(latents, output, rows.coefficients, history, rows.noise)
    if rows.shown:
        slots.x0[rows.write] = clean(latents, output, rows.coefficients)
    if rows.kept is not None:
        slots.history.flatten(0, 1)[rows.kept] = y
    slots.x[rows.write] = x  # last: what fails before is tried again


def develop(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images of the VAE, (B, C, H, W) -> pixels (B, H, W, C) uint8 and (B,) float64 sums.

    A sum is finite if its image is, and it tells apart images that differ in their last bits.
    """
    return to_uint8(images), images.double().flatten(1).sum(dim=1)


def useful(sizes: Collection[int], each: int, enough: int) -> tuple[int, ...]:
    """The sizes of a batch, ascending, that rows of `each` bytes of maps make not too large.

    With `enough` bytes every unit of the device has work: more rows only take longer. The smallest
    size is always among them. It depends on nothing that is measured.
    """
    smallest, *more = sorted(sizes)
    return smallest, *(size for size in more if size * each <= enough)


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
