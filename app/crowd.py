"""All connections there are: how many there may be, and who goes when there is no room.

A client may have four times as many as are free: so one alone has four fifths, however many ask
there is room for another, and nobody has to say how many clients there will be. Choudhury & Hahne
1998, "Dynamic queue length thresholds for shared-memory packet switches", eq. 1.
"""

import logging
import math
import time
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

log = logging.getLogger(__name__)

_GREED = 4  # times what is free, for one client
_SILENCE = 10.0  # seconds between words in the log
_KEPT = 128  # descriptors for everything else, and for connections on their way out
_FEWEST = 16
_MOST = 2048  # connections, where the settings do not say: each may hold a head and a body


@dataclass(frozen=True)
class Bounds:
    """What a connection may take: bytes, and seconds."""

    connections: int
    head_bytes: int
    head_seconds: float  # from its first byte, or from the beginning, to its last
    body_seconds: float
    answer_seconds: float  # without taking any more of an answer


class Member(Protocol):
    """What is asked of a connection."""

    address: str

    def evict(self) -> None:
        """End it, now."""


class Crowd:
    """Connections by client, and those that ask for nothing, longest first."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._members: dict[Member, str] = {}
        self._counts: Counter[str] = Counter()
        self._waiting: dict[str, dict[Member, None]] = {}
        self._said = -math.inf

    def enter(self, member: Member) -> bool:
        """Take one more in, in place of one that waits where it has to be; false if none does."""
        client, free = member.address, self.bounds.connections - len(self._members)
        if free <= 0 or self._counts[client] >= _GREED * free:
            giving = (
                client
                if free > 0
                else max(
                    self._waiting, key=lambda client: len(self._waiting[client]), default=client
                )
            )
            self._warn(giving)
            oldest = next(iter(self._waiting.get(giving, ())), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.evict()
        self._members[member] = client
        self._counts[client] += 1
        self.mark(member, waiting=True)
        return True

    def leave(self, member: Member) -> None:
        """It is gone; one that never came in is not missed."""
        client = self._members.pop(member, None)
        if client is None:
            return
        self._rest(member, client)
        self._counts[client] -= 1
        if not self._counts[client]:
            del self._counts[client]

    def mark(self, member: Member, *, waiting: bool) -> None:
        """It asks for nothing from now on, or is served."""
        client = self._members.get(member)
        if client is None:
            return
        self._rest(member, client)
        if waiting:
            self._waiting.setdefault(client, {})[member] = None

    def _rest(self, member: Member, client: str) -> None:
        """Take it off those that wait."""
        waiting = self._waiting.get(client)
        if waiting is not None:
            waiting.pop(member, None)
            if not waiting:
                del self._waiting[client]

    def _warn(self, client: str) -> None:
        """Say now and then that there is no room."""
        now = time.monotonic()
        if now - self._said < _SILENCE:
            return
        self._said = now
        log.warning(
            "%d connections are open, of %d that may be (DARKROOM_MAX_CONNECTIONS), %d of them by "
            "%s: some that ask for nothing are closed",
            len(self._members),
            self.bounds.connections,
            self._counts[client],
            client or "unknown",
        )


def most_connections() -> int:
    """As many as leave descriptors for everything else, and no more than memory is meant for."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return _MOST
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return _MOST
    return max(min(limit - _KEPT, _MOST), _FEWEST)
