"""All connections: how many there may be, and which are closed when there is no room.

A client's share is four times what is free, as of everything else (engine/shares.py).
"""

import functools
import ipaddress
import logging
import math
import time
from dataclasses import dataclass
from typing import Protocol

from app.engine.shares import ALPHA, Shares

log = logging.getLogger(__name__)

_NETWORK_BITS = 64  # of an IPv6 address: what one customer is given at least (RFC 6177)
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
    """The interface of a connection."""

    address: str

    def evict(self) -> None:
        """Close it at once."""


class Crowd:
    """Connections by client, and the idle ones, the longest idle first."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._shares = Shares(bounds.connections * ALPHA // (ALPHA + 1))
        self._members: dict[Member, str] = {}
        self._waiting: dict[str, dict[Member, None]] = {}
        self._said = -math.inf

    def enter(self, member: Member) -> bool:
        """Admit one more, if need be in place of an idle one; false if there is none."""
        client, shares = member.address, self._shares
        if not shares.fits(client):
            full = shares.taken == shares.total
            self._warn(giving := self._idlest() if full else client)
            oldest = next(iter(self._waiting.get(giving, ())), None)
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.evict()
        self._members[member] = client
        shares.take(client)
        self.mark(member, waiting=True)
        return True

    def leave(self, member: Member) -> None:
        """Forget a connection; one that was never admitted is ignored."""
        client = self._members.pop(member, None)
        if client is not None:
            self._rest(member, client)
            self._shares.take(client, -1)

    def mark(self, member: Member, *, waiting: bool) -> None:
        """Note whether a connection is idle from now on."""
        client = self._members.get(member)
        if client is None:
            return
        self._rest(member, client)
        if waiting:
            self._waiting.setdefault(client, {})[member] = None

    def _idlest(self) -> str:
        """The client with the most idle connections; any if there are none."""
        return max(self._waiting, key=lambda client: len(self._waiting[client]), default="")

    def _rest(self, member: Member, client: str) -> None:
        """Remove it from the idle ones."""
        waiting = self._waiting.get(client)
        if waiting is not None:
            waiting.pop(member, None)
            if not waiting:
                del self._waiting[client]

    def _warn(self, client: str) -> None:
        """Log from time to time that there is no room."""
        now = time.monotonic()
        if now - self._said < _SILENCE:
            return
        self._said = now
        log.warning(
            "%d connections are open, of %d that may be (DARKROOM_MAX_CONNECTIONS), %d of them by "
            "%s: some idle ones are closed",
            self._shares.taken,
            self._shares.total,
            self._shares.held(client),
            client or "unknown",
        )


@functools.lru_cache(1024)
def client_of(host: str) -> str:
    """Who shares the engine as one: an IPv4 address, an IPv6 network; what is neither, as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _NETWORK_BITS), strict=False))


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
