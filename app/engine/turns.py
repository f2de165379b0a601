"""Which lane runs the next tick. Policy alone: standard library only.

Start-time fair queueing (Goyal, Vin and Cheng, "Start-time Fair Queueing: A Scheduling Algorithm
for Integrated Services Packet Switching Networks", SIGCOMM 1996) over seconds of the device: every
lane has a virtual time, the seconds that it has had, and the least goes next. A lane that had
nothing to do begins where the others are, so it has saved nothing up. Any two lanes that are always
busy have had the same, but for a tick of each.
"""

from collections.abc import Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

# Seconds that a lane may be ahead of the others before they take over. A change of lanes costs what
# the device would have done while the next tick is prepared. A tick of the digits takes 9 ms, so
# about three of them run in a row; others wait up to twice this longer than if they took turns.
AHEAD = 0.015


class Turns(Generic[K]):
    """The virtual times of lanes; K names a lane."""

    def __init__(self) -> None:
        self._had: dict[K, float] = {}
        self._busy: frozenset[K] = frozenset()
        self._last: K | None = None
        self._least = 0.0  # the virtual time of the device

    def next(self, busy: Sequence[K]) -> K:
        """Whose tick is next, of those that have something to do: one at least."""
        for lane in busy:
            if lane not in self._busy:
                self._had[lane] = max(self._had.get(lane, 0.0), self._least)
        self._busy = frozenset(busy)
        least = min(busy, key=self._had.__getitem__)
        self._least = self._had[least]
        if self._last not in self._busy or self._had[self._last] > self._least + AHEAD:
            self._last = least
        return self._last

    def used(self, lane: K, seconds: float) -> None:
        """A lane has had so many seconds of the device more; negative: fewer than was said."""
        self._had[lane] = self._had.get(lane, 0.0) + seconds

    def forget(self, lane: K) -> None:
        """A lane is no more."""
        self._had.pop(lane, None)
        self._busy -= {lane}
