"""What a backend's buckets cost, and which of them make the same bits; see probing.py.

Of the buckets that agree, those are used that agree with the largest (or, where rows are dear, with
the smallest): never by timing, so that a model has the same pixels at every start.
"""

import hashlib
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Part, Rows, Slots
from app.engine.backends.probing import Pace, examine
from app.engine.costs import Bucket
from app.engine.turnstile import Turn
from models.conditioners import Conditioning
from models.memory import BLOCK_ROWS, plain_rows
from models.pipeline import LatentDiffusion
from models.samplers import trajectory

Clock = Callable[[], float]  # seconds

NOT_FINITE = "an image is not finite"
_ORDERS, _DECODED_ORDERS = 5, 2  # in which rows are tried, of steps and of the decoder
# Seconds that trying them may take. A start is over in a minute, whatever a row costs; see also
# sketching.py. The shipped model takes a second or two.
_STEP_SECONDS, _DECODE_SECONDS = 20.0, 12.0
# Rounds of all buckets that are timed again, and seconds for it: others start up at the same time.
# They end when no bucket was faster than before, by more than `_FASTER`, in `_CALM` in a row.
_ROUNDS, _ROUND_SECONDS = 20, 1.0
_FASTER, _CALM = 0.02, 3


@dataclass(frozen=True)
class Measured:
    """Buckets for steps and for decoding; `exact` is false where not even one can be relied on.

    `decode_seconds` is what decoding takes with the largest bucket. `blocks` are the rows of the
    plain loop's blocks, of UNet and decoder, that make the same bits. `rounding` stands for these
    bits: hexadecimal digits of the SHA-256 of what was made.
    """

    buckets: tuple[Bucket, ...]
    decode_buckets: tuple[int, ...]
    decode_seconds: float
    exact: bool
    blocks: tuple[int, int]
    rounding: str


def unmeasured(backend: Backend, model: LatentDiffusion) -> Measured:
    """What is taken before anything is measured: blocks of as many rows as the plain loop's.

    Where these are fewer than usual, a row is dear, and only what the backend prepares is taken.
    """
    rows = plain_rows(model.unet.config, model.vae.config)

    def block(sizes: tuple[int, ...]) -> int:
        if rows == BLOCK_ROWS:
            return rows
        return min((size for size in sizes if size >= rows), default=sizes[-1])

    steps, decoded = block(backend.buckets), block(backend.decode_buckets)
    return Measured(
        (Bucket(steps, 1.0),),
        (decoded,),
        decode_seconds=1.0,
        exact=True,
        blocks=(steps, decoded),
        rounding="",
    )


def measure(
    backend: Backend,
    model: LatentDiffusion,
    slots: Slots,
    *,
    clock: Clock = time.perf_counter,
    turn: Turn = nullcontext,
) -> Measured:
    """Step and decode fixed rows through the buckets; what there is no memory for is left out.

    `slots` are the runner's, overwritten. Whatever is timed has a turn on the device.

    Raises:
        OutOfMemory: there is no memory even for the smallest bucket.
        ValueError: a step is not finite.
    """
    backend.prepare()
    given, pace, decode_pace = _Given.of(model, slots, backend), Pace(), Pace()

    def step(size: int, shift: int, *, rows: int) -> Tensor:
        made = _step(backend, slots, given, size, shift, rows, pace, clock, turn)
        if not made.isfinite().all():
            raise ValueError(f"{NOT_FINITE}, in {backend.precision}")
        return made

    def decoded(size: int, shift: int, *, rows: int) -> Tensor:
        latents = given.x[torch.arange(rows) % len(given.x)].roll(shift, dims=0)
        with turn():
            began = clock()
            sums = decode(backend, latents, size)[1].roll(-shift)
            decode_pace.note(size, (clock() - began) / -(-rows // size))
        return sums

    stepped = examine(backend.buckets, step, pace, orders=_ORDERS, seconds=_STEP_SECONDS)
    began, calm = clock(), 0
    for shift in range(_ROUNDS):
        before = {size: pace.of(size) for size in stepped.sizes}
        if calm == _CALM or clock() - began + sum(before.values()) > _ROUND_SECONDS:
            break
        for size in stepped.sizes:
            step(size, shift, rows=size)
        faster = any(pace.of(size) < before[size] * (1 - _FASTER) for size in before)
        calm = 0 if faster else calm + 1
    developed = examine(
        backend.decode_buckets,
        decoded,
        decode_pace,
        orders=_DECODED_ORDERS,
        seconds=_DECODE_SECONDS,
    )
    bits = b"".join(found.made.numpy().tobytes() for found in (stepped, developed))
    return Measured(
        tuple(Bucket(size, pace.of(size)) for size in stepped.sizes),
        developed.sizes,
        decode_pace.of(developed.sizes[-1]),
        stepped.exact and developed.exact,
        (stepped.sizes[-1], developed.sizes[-1]),
        hashlib.sha256(bits).hexdigest()[:8],
    )


@dataclass(frozen=True)
class _Given:
    """The same rows for every probe, one per slot."""

    x: Tensor  # on the device
    t: Tensor
    coefficients: Tensor
    conditioning: Conditioning  # on the device

    @classmethod
    def of(cls, model: LatentDiffusion, slots: Slots, backend: Backend) -> "_Given":
        draw, total = torch.Generator().manual_seed(0), slots.waste - 1
        x = torch.randn(slots.x[:total].shape, generator=draw)
        way = trajectory(model.schedule, model.schedule.sampler, model.schedule.num_train_timesteps)
        places = torch.randint(len(way.timesteps), (total,), generator=draw)
        return cls(
            x.to(slots.x.device),
            way.timesteps[places].float(),
            way.coefficients[places].float(),
            model.denoiser.examples(total, model.size_of(backend.shape)),
        )

    def fill(self, slots: Slots) -> None:
        """Put every row into its slot."""
        slots.fill(torch.arange(len(self.x), device=self.x.device), self.x, self.conditioning)


def run(
    backend: Backend,
    slots: Slots,
    size: int,
    places: Tensor,
    t: Tensor,
    coefficients: Tensor,
    clock: Clock = time.perf_counter,
    turn: Turn = nullcontext,
    *,
    shown: bool = False,
) -> float:
    """Step slots, unguided and without noise, in a bucket of `size`; the seconds it takes.

    `places` (n,) int64 are the slots, `t` (n,) their timesteps and `coefficients` (n, COEFFICIENTS)
    those of their steps. The rest of the bucket is padding.
    """
    of, lack = backend.parts(size), size - len(places)
    places = torch.cat([places, places.new_full((lack,), slots.waste)])
    t = torch.cat([t, t.new_zeros(lack)])
    coefficients = torch.cat([coefficients, coefficients.new_zeros(lack, coefficients.shape[1])])
    share = size // of
    parts = [
        Rows(
            read=places[rows],
            write=places[rows],
            side=2 * places[rows],
            t=backend.times(t[rows].tolist()),
            null=torch.arange(share),
            scale=torch.ones(share),
            coefficients=coefficients[rows],
            shown=shown,
        )
        for rows in torch.arange(size).split(share)
    ]
    with turn():
        began = clock()
        for index, rows in enumerate(parts):
            backend.step(slots, rows, Part(index, of))
        backend.synchronize()
        return clock() - began


def _step(
    backend: Backend,
    slots: Slots,
    given: _Given,
    size: int,
    shift: int,
    rows: int,
    pace: Pace,
    clock: Clock,
    turn: Turn,
) -> Tensor:
    """Step the first rows by `size`, in turned order; what came out.

    Every other order is of ticks that are not plain: a GPU has graphs of their own for these.
    """
    given.fill(slots)
    count = max(size, min(rows, len(given.x)))
    for places in torch.arange(count).roll(shift).split(size):
        t, coefficients = given.t[places], given.coefficients[places]
        odd = shift % 2 == 1
        seconds = run(backend, slots, size, places, t, coefficients, clock, turn, shown=odd)
        pace.note(size, seconds)
    return slots.x[:count].clone().cpu()


def decode(backend: Backend, latents: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Decode latents by `size`, the last part filled up: pixels and sums, on the CPU."""
    made = []
    for part in latents.split(size):
        filled = torch.cat([part, latents[:1].expand(size - len(part), *latents.shape[1:])])
        made.append([values[: len(part)].clone() for values in backend.decode(filled).images()])
    pixels, sums = (torch.cat(parts) for parts in zip(*made, strict=True))
    return pixels, sums
