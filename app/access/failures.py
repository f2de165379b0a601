"""Wrong keys, counted by the address that they come from."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

PER_MINUTE = 20  # of one address, all of which may come at once
MOST_ADDRESSES = 4096  # that are counted: half a megabyte


class Failures:
    """How many wrong keys came from where.

    The generic cell rate algorithm (ITU-T I.371, annex A): one number per address. Where too many
    addresses send wrong keys, the one that has been quiet longest is forgotten.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._due: OrderedDict[str, float] = OrderedDict()  # when the next would be due

    def note(self, address: str) -> int:
        """Count a wrong key; the seconds until another one is listened to, 0 if it is now."""
        now, each = self._clock(), 60 / PER_MINUTE
        due = max(self._due.pop(address, now), now)
        room = due + each - now <= 60
        self._due[address] = due + each if room else due
        if len(self._due) > MOST_ADDRESSES:
            self._due.popitem(last=False)
        return 0 if room else math.ceil(due + each - now - 60)
