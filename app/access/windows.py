"""Evaluations that each client has begun lately: a sliding window counter, of package `limits`.

It keeps two numbers per client, for this window and the one before, of which the second counts less
and less. A moving window would keep a record of every evaluation.
"""

import math
import time

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from app.access.allowance import Rate


class Windows:
    """What clients have begun."""

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)

    def take(self, rate: Rate, client: str, work: int) -> bool:
        """Count so much more, if it has room."""
        return self._limiter.hit(_item(rate), client, cost=work)

    def give_back(self, rate: Rate, client: str, work: int) -> None:
        """Count it no more; what was counted in an earlier window stays there."""
        key = _item(rate).key_for(client)
        _, current = self._storage.sliding_window_keys(key, rate.seconds, time.time())
        if self._storage.get(current):
            self._storage.decr(current, work)

    def left(self, rate: Rate, client: str) -> int:
        """How much has room now."""
        return self._limiter.get_window_stats(_item(rate), client).remaining

    def reset(self, rate: Rate, client: str) -> int:
        """Seconds until nothing is counted."""
        _, previous_left, current, current_left = self._counted(rate, client)
        return math.ceil(current_left if current else previous_left)

    def wait(self, rate: Rate, client: str, work: int) -> int:
        """Seconds until so much has room, if nothing else is counted: at least 1."""
        previous, previous_left, current, current_left = self._counted(rate, client)
        room = rate.amount - work + 1  # what is counted must be below, as it is rounded down
        if current < room and previous:
            left = previous_left - (room - current) * rate.seconds / previous
        else:
            left = current_left - min(room / max(current, 1), 1) * rate.seconds
        return max(math.ceil(left), 1)

    def _counted(self, rate: Rate, client: str) -> tuple[int, float, int, float]:
        """Evaluations of the window before, and of this one; each with the seconds it counts."""
        return self._storage.get_sliding_window(_item(rate).key_for(client), rate.seconds)


def _item(rate: Rate) -> RateLimitItem:
    return RateLimitItemPerSecond(rate.amount, rate.seconds)
