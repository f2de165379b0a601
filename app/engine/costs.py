"""What a tick costs, and what follows: how many rows it should have, and when a job will end.

Standard library only. The table is measured when a model is warmed up, and then refined from the
ticks that run (learning.py).
"""

import functools
from dataclasses import dataclass

# Of the best rate: a bucket that reaches it is as large as a tick should be. Not 0.95: what a tick
# was measured to take is uncertain by 2 percent, and both together should stay within 5.
WORTHWHILE = 0.97
# Per evaluation of another's image, where nothing else is known. Some are guided; by simulation.
_ROWS = 1.75
LONG = 0.25  # seconds; an image that takes longer alone gives way to shorter ones


@dataclass(frozen=True)
class Bucket:
    """A shape that the device runs: `rows` of the network and their updates in `seconds`."""

    rows: int
    seconds: float

    @property
    def rate(self) -> float:
        """Rows per second, if all of them are used."""
        return self.rows / self.seconds


@dataclass(frozen=True)
class Costs:
    """Buckets by rows, ascending; a tick runs one of them, padded if it lacks rows."""

    buckets: tuple[Bucket, ...]

    @functools.cached_property
    def best(self) -> Bucket:
        """The smallest bucket that is nearly as fast as any: more rows only make ticks longer."""
        enough = WORTHWHILE * max(bucket.rate for bucket in self.buckets)
        return next(bucket for bucket in self.buckets if bucket.rate >= enough)

    def times(self, factor: float) -> "Costs":
        """The same buckets, each so many times as long."""
        return Costs(tuple(Bucket(b.rows, factor * b.seconds) for b in self.buckets))

    def up_to(self, rows: int) -> "Costs":
        """The same without buckets of more rows, except the smallest."""
        return Costs(tuple(b for b in self.buckets if b.rows <= rows) or self.buckets[:1])

    def holding(self, rows: int) -> Bucket:
        """The smallest bucket with room for `rows`, or the largest there is."""
        return next((b for b in self.buckets if b.rows >= rows), self.buckets[-1])

    def choose(self, wanted: int, least: int, most: int) -> Bucket:
        """The bucket of `least` to `most` rows that computes the most of `wanted` rows per second.

        If no bucket has so few or so many rows, take the nearest; room for `least` comes first.
        """
        allowed = [b for b in self.buckets if least <= b.rows <= most] or [self.holding(least)]
        return max(allowed, key=lambda bucket: min(bucket.rows, wanted) / bucket.seconds)

    def within(self, seconds: float, least: int) -> Bucket:
        """The largest bucket of at most `seconds`, but with room for `least` rows."""
        allowed = [b for b in self.buckets if b.seconds <= seconds and b.rows >= least]
        return allowed[-1] if allowed else self.holding(least)


@dataclass(frozen=True)
class Ahead:
    """What lies ahead of a new job: images, and their rows still to be run."""

    images: int
    rows: int


@dataclass(frozen=True)
class Forecast:
    """Seconds until a job's last image has a slot, and until it ends."""

    wait: float
    end: float


def forecast(
    costs: Costs,
    ahead: Ahead,
    slots: int,
    *,
    evaluations: int,
    images: int,
    rows: int,
    slowness: float,
    replaced: float = 0.0,
) -> Forecast:
    """When a job that comes now would have its slots, and when it would end.

    Slots come free at an even pace, but the first of them late, as images that began together leave
    together: as if a quarter of the slots more had to come free. While a job runs, it shares every
    round of steps with what else is in flight. `rows` are the job's; `slowness` is what
    ticks took of late, by what the table says they take. `replaced` is the part, of 0 to 1, of what
    ends meanwhile that others take the place of.
    """
    rate = costs.best.rate / slowness
    over, late = max(ahead.images + images - slots, 0), slots / 4
    share = min((over + late) / (ahead.images + late), 1) if over else 0
    wait = ahead.rows / rate * share
    together = min(ahead.images, max(slots - images, 0))
    beside = together * (ahead.rows / ahead.images) if ahead.images else 0.0
    # Each neighbour is there for as many evaluations as it has left, or as this job has.
    always = together * evaluations * _ROWS
    shared = min(beside, always)
    shared += replaced * (always - shared)
    alone = slowness * solo(costs, evaluations=evaluations, rows=rows)
    return Forecast(wait, wait + alone + shared / rate)


def solo(costs: Costs, *, evaluations: float, rows: float) -> float:
    """Seconds a job takes alone on the device; an evaluation with many rows takes several ticks."""
    each = rows / evaluations
    most = costs.best.rows
    whole, rest = divmod(each, most)
    seconds = whole * costs.best.seconds
    if rest:
        seconds += costs.holding(round(rest) or 1).seconds
    return evaluations * seconds


def is_long(costs: Costs, *, evaluations: int, rows: float) -> bool:
    """Whether an image with so many evaluations, and rows in all of them, takes longer than `LONG`.

    The time is what it takes alone on the device.
    """
    return solo(costs, evaluations=evaluations, rows=rows) > LONG
