"""Which sizes of a batch make the same bits, found by trying them; no more than time allows.

Kernels may choose their order of summation by the shape of the batch. So the same rows are run in
every size, in other orders and with other neighbours, on this very device. Sizes that agree may
stand for each other; a size that was not compared is not used.
"""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from app.engine.backends.base import device_errors
from app.engine.errors import OutOfMemory

USUAL_ROWS = 16  # that are compared, as many as a block of the plain loop has
FEW_ROWS, _FEW_ORDERS = 2, 2  # where rows are dear: with fewer, no order is another one


@dataclass
class Pace:
    """The least seconds that a run of each size took."""

    seconds: dict[int, float] = field(default_factory=dict)

    def note(self, size: int, seconds: float) -> None:
        """Keep it if it is the least."""
        self.seconds[size] = min(seconds, self.seconds.get(size, seconds))

    def of(self, size: int) -> float:
        """Of a size that was run; of another at most, by the largest below it (or all there is)."""
        if size in self.seconds:
            return self.seconds[size]
        below = max((s for s in self.seconds if s < size), default=min(self.seconds))
        return self.seconds[below] * max(size / below, 1)

    def rows(self, size: int, rows: int) -> float:
        """Seconds for so many rows, `size` at a time."""
        return self.of(size) * -(-rows // size)


class Probe(Protocol):
    """Runs the same rows in any size, and notes its pace."""

    def __call__(self, size: int, shift: int, *, rows: int) -> Tensor:
        """What so many rows become, `size` at a time and turned by `shift`; in their own order."""


@dataclass(frozen=True)
class Found:
    """Sizes that may stand for each other, ascending, and what they made of the first rows.

    `exact` is false where not even one can be relied on.
    """

    sizes: tuple[int, ...]
    exact: bool
    made: Tensor


def examine(
    sizes: Collection[int], probe: Probe, pace: Pace, *, orders: int, seconds: float
) -> Found:
    """Find the sizes that agree, with about `seconds` for it.

    If there is time, every size is run in `orders` orders, and those are taken that agree with the
    largest that can be relied on. Otherwise the smallest of at least two rows is the one to agree
    with: it is always compared, so that the bits do not depend on how far the time reaches. It
    costs little: where rows are dear, many at once are hardly faster per row.

    Raises:
        OutOfMemory: there is no memory for any.
    """
    for size in _pilots(sizes):
        if not pace.seconds or pace.rows(size, size) <= seconds / 10:
            try:
                with device_errors():
                    for _ in range(2):  # the first prepares what the second is timed with
                        probe(size, 0, rows=size)
            except OutOfMemory:  # told, or left out, when it is tried again
                break
    usual = {size: max(size, USUAL_ROWS) for size in sizes}
    if not pace.seconds or sum(pace.rows(*run) for run in usual.items()) * orders <= seconds:
        made = probed(sizes, lambda size, shift: probe(size, shift, rows=usual[size]), orders)
        found, exact = agreeing(made, largest=True)
    else:
        made = _few(sizes, probe, pace, seconds)
        found, exact = agreeing(made, largest=False)
    return Found(found, exact, made[found[0]][0][:FEW_ROWS])


def probed(
    sizes: Collection[int], probe: Callable[[int, int], Tensor], orders: int
) -> dict[int, list[Tensor]]:
    """What each size makes of the same rows, in several orders; those without memory are left out.

    Raises:
        OutOfMemory: none has.
    """
    # The largest first: the others then find room in what it has taken.
    made: dict[int, list[Tensor]] = {size: [] for size in sorted(sizes, reverse=True)}
    for shift in range(orders):  # in turn: what disturbs one moment spoils one probe of each
        for size in list(made):
            try:
                with device_errors():
                    made[size].append(probe(size, shift))
            except OutOfMemory:
                del made[size]
                if not made:
                    raise
    return made


def _few(
    sizes: Collection[int], probe: Probe, pace: Pace, seconds: float
) -> dict[int, list[Tensor]]:
    """Few rows in few orders, the one to agree with first; then others, as far as time reaches."""
    first = min((size for size in sizes if size > 1), default=min(sizes))
    made: dict[int, list[Tensor]] = {}
    for size in [first, *(size for size in sorted(sizes) if size != first)]:
        rows = max(size, min(FEW_ROWS, max(sizes)))
        seconds -= _FEW_ORDERS * pace.rows(size, rows)
        if made and seconds < 0:
            break
        try:
            made |= probed([size], functools.partial(probe, rows=rows), _FEW_ORDERS)
        except OutOfMemory as error:
            reason = error
    if not made:
        raise reason
    return made


def agreeing(
    made: Mapping[int, Sequence[Tensor]], *, largest: bool = True
) -> tuple[tuple[int, ...], bool]:
    """Sizes, ascending, that make the same bits as the largest that can be relied on, or smallest.

    A size can be relied on if its rows are the same in any order; one row alone shows nothing of
    that. If none can, the size that is most like a block of the plain loop is used, and the second
    value is false.
    """
    steady = [size for size in made if all(_same(made[size][0], other) for other in made[size])]
    candidates = [size for size in steady if size >= min(2, max(made))]
    if not candidates:
        return (min(made, key=lambda size: abs(size - USUAL_ROWS)),), False
    expected = made[max(candidates) if largest else min(candidates)][0]
    return tuple(sorted(size for size in steady if _same(made[size][0], expected))), True


def _pilots(sizes: Collection[int]) -> list[int]:
    """The smallest, and the largest of up to sixteen rows: to tell the pace of the others by."""
    return sorted({min(sizes), max((s for s in sizes if s <= USUAL_ROWS), default=min(sizes))})


def _same(ours: Tensor, theirs: Tensor) -> bool:
    """Whether the rows that both have are equal, bit for bit."""
    rows = min(len(ours), len(theirs))
    return torch.equal(ours[:rows], theirs[:rows])
