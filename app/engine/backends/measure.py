"""What a backend's buckets cost, which of them make the same bits, and previews made with them.

Kernels may choose their order of summation by the shape of the batch. So rows are compared across
shapes, positions and neighbours, on this very device. Of the shapes that agree, those are used that
agree with the largest: never by timing, so that a model has the same pixels at every start.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.backends.base import Backend, Part, Rows, Slots, device_errors
from app.engine.costs import Bucket, Costs
from app.engine.errors import OutOfMemory
from models.ddim import coefficients, trajectory
from models.pipeline import BLOCK_ROWS, LatentDiffusion
from models.preview import LatentPreview
from models.schedule import alpha_bars

NOT_FINITE = "an image is not finite"
_PROBES = 5  # of each bucket, each in another order of rows
_DECODED = 2  # likewise, for the decoder
_FIT_STEPS = 8  # of the images that previews are fitted to


@dataclass(frozen=True)
class Measured:
    """Buckets for steps and for decoding; `exact` is false where not even one can be relied on.

    `blocks` are the rows of the plain loop's blocks, of UNet and decoder, that make the same bits.
    `rounding` stands for these bits: hexadecimal digits of the SHA-256 of what was made.
    """

    buckets: tuple[Bucket, ...]
    decode_buckets: tuple[int, ...]
    exact: bool
    blocks: tuple[int, int]
    rounding: str


UNMEASURED = Measured(
    (Bucket(BLOCK_ROWS, 1.0),),
    (BLOCK_ROWS,),
    exact=True,
    blocks=(BLOCK_ROWS, BLOCK_ROWS),
    rounding="",
)


def measure(backend: Backend, model: LatentDiffusion, slots: Slots, *, waste: int) -> Measured:
    """Step and decode fixed rows through every bucket; what there is no memory for is left out.

    `slots` are the runner's, overwritten; `waste` is the one that nobody reads.

    Raises:
        OutOfMemory: there is no memory even for the smallest bucket.
        ValueError: a step is not finite.
    """
    backend.prepare()
    given = _Given.of(model, waste, slots.x.device)
    seconds = dict.fromkeys(backend.buckets, math.inf)

    def step(size: int, shift: int) -> Tensor:
        made, least = _step(backend, slots, given, size, shift)
        seconds[size] = min(seconds[size], least)
        if not made.isfinite().all():
            raise ValueError(f"{NOT_FINITE}, in {model.dtype}")
        return made

    def decode(size: int, shift: int) -> Tensor:
        count = max(size, BLOCK_ROWS)
        latents = given.x[torch.arange(count) % len(given.x)]
        return _decode(backend, latents.roll(shift, dims=0), size)[1].roll(-shift)

    stepped = probed(backend.buckets, step, _PROBES)
    sizes, exact = agreeing(stepped)
    decoded = probed(backend.decode_buckets, decode, _DECODED)
    decode_sizes, decode_exact = agreeing(decoded)
    rows = stepped[sizes[-1]][0], decoded[decode_sizes[-1]][0]
    return Measured(
        tuple(Bucket(size, seconds[size]) for size in sizes),
        decode_sizes,
        exact and decode_exact,
        (sizes[-1], decode_sizes[-1]),
        hashlib.sha256(b"".join(made[:BLOCK_ROWS].numpy().tobytes() for made in rows)).hexdigest()[
            :8
        ],
    )


def probed(
    sizes: Iterable[int], probe: Callable[[int, int], Tensor], times: int
) -> dict[int, list[Tensor]]:
    """What each size makes of the same rows, in `times` orders; sizes without memory are left out.

    Raises:
        OutOfMemory: none has.
    """
    # The largest first: the others then find room in what it has taken.
    made: dict[int, list[Tensor]] = {size: [] for size in sorted(sizes, reverse=True)}
    for shift in range(times):  # in turn: what disturbs one moment spoils one probe of each
        for size in list(made):
            try:
                with device_errors():
                    made[size].append(probe(size, shift))
            except OutOfMemory:
                del made[size]
                if not made:
                    raise
    return made


def agreeing(made: Mapping[int, Sequence[Tensor]]) -> tuple[tuple[int, ...], bool]:
    """Sizes, ascending, that make the same bits as the largest that can be relied on.

    A size can be relied on if its rows are the same in any order. If none can, or only one row
    alone, the size that is most like a block of the plain loop is used, and the second value is
    false.
    """
    steady = [size for size in made if all(_same(made[size][0], other) for other in made[size])]
    if max(steady, default=0) < min(2, max(made)):
        return (min(made, key=lambda size: abs(size - BLOCK_ROWS)),), False
    expected = made[max(steady)][0]
    return tuple(sorted(size for size in steady if _same(made[size][0], expected))), True


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether the rows that both have are equal, bit for bit."""
    rows = min(len(ours), len(theirs))
    return torch.equal(ours[:rows], theirs[:rows])


@dataclass(frozen=True)
class _Given:
    """The same rows for every probe, one per slot: latents on the device, the rest on the CPU."""

    x: Tensor
    t: Tensor
    steps: Tensor  # from t to t - 1
    label: Tensor
    waste: int

    @classmethod
    def of(cls, model: LatentDiffusion, waste: int, device: torch.device) -> "_Given":
        draw, total = torch.Generator().manual_seed(0), waste - 1
        x = torch.randn(total, *model.latent_shape, generator=draw)
        t = torch.randint(0, model.schedule.num_train_timesteps, (total,), generator=draw)
        label = torch.randint(max(len(model.classes.names), 1), (total,), generator=draw)
        alpha_bar = alpha_bars(model.schedule, torch.float64)  # of t = -1 as well
        steps = coefficients(alpha_bar[t], alpha_bar[t - 1], model.schedule.prediction_type)
        return cls(x.to(device), t, steps, label, waste)


def _run(
    backend: Backend, slots: Slots, size: int, padding: int, tick: tuple[Tensor, ...]
) -> float:
    """Step slots, unguided and without noise, in a bucket of `size`; the seconds it takes.

    `tick` has the slots, their timesteps, their coefficients and their classes. The rest of the
    bucket is `padding`, a slot.
    """
    of = backend.parts(size)
    places, t, steps, label = (
        torch.cat([values, values.new_full((size - len(values), *values.shape[1:]), fill)])
        for values, fill in zip(tick, (padding, 0, 0, 0), strict=True)
    )
    share = size // of
    parts = [
        Rows(
            read=places[rows],
            write=places[rows],
            t=t[rows],
            label=label[rows],
            null=torch.arange(share),
            scale=torch.ones(share),
            steps=steps[rows].float(),
            noise=None,
        )
        for rows in torch.arange(size).split(share)
    ]
    began = time.perf_counter()
    for index, rows in enumerate(parts):
        backend.step(slots, rows, Part(index, of))
    backend.synchronize()
    return time.perf_counter() - began


def _step(
    backend: Backend, slots: Slots, given: _Given, size: int, shift: int
) -> tuple[Tensor, float]:
    """Step the first rows by `size`, in turned order; what came out, and the least time."""
    total = given.waste - 1
    count = max(size, min(BLOCK_ROWS, total))
    slots.x[:total] = given.x
    least = math.inf
    for places in torch.arange(count).roll(shift).split(size):
        tick = places, given.t[places], given.steps[places], given.label[places]
        least = min(least, _run(backend, slots, size, given.waste, tick))
    return slots.x[:count].clone().cpu(), least


def _decode(backend: Backend, latents: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Decode latents by `size`, the last part filled up: pixels and sums, on the CPU."""
    made = []
    for part in latents.split(size):
        filled = torch.cat([part, latents[: size - len(part)]])
        made.append([values[: len(part)].clone() for values in backend.decode(filled).images()])
    pixels, sums = (torch.cat(parts) for parts in zip(*made, strict=True))
    return pixels, sums


def fit_preview(
    backend: Backend, model: LatentDiffusion, slots: Slots, measured: Measured, *, waste: int
) -> LatentPreview:
    """The map for previews, fitted to a few images that are drawn for it.

    Drawn with the buckets that were measured: there is memory for these. `slots` and `waste` are
    as for `measure`.
    """
    schedule, device = model.schedule, slots.x.device
    count = min(BLOCK_ROWS, waste - 1)
    size = Costs(measured.buckets).holding(count).rows
    label = torch.arange(count) % max(len(model.classes.names), 1)
    slots.x[:count] = torch.stack([model.start(seed)[0] for seed in range(count)]).to(device)
    most = min(_FIT_STEPS, schedule.num_train_timesteps)
    for t, step in zip(*trajectory(schedule, most, 0.0), strict=True):
        for places in torch.arange(count).split(size):
            rows = len(places)
            tick = places, torch.full((rows,), t), step.expand(rows, -1), label[places]
            _run(backend, slots, size, waste, tick)
    latents = slots.x[:count].clone()
    pixels, _ = _decode(backend, latents, measured.decode_buckets[-1])
    return LatentPreview.fit(latents, pixels.movedim(-1, 1) / 127.5 - 1)
