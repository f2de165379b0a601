"""Which pages may use this server, and by which names it is called.

A browser lets any page send requests to any server, including a server on the same machine. It
names the page's origin in `Origin` (RFC 6454), or in `Sec-Fetch-Site` and `Referer` if it sends no
`Origin`. If a page's own name resolves to this server's address (DNS rebinding), the browser treats
the server as the same origin; only `Host` reveals it.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

ANY: Final = "*"
NONE: Final = "none"
_AUTHORITY = re.compile(
    r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?)(?::(?P<port>[0-9]{0,5}))?"
)
_LONGEST = 260  # characters: 253 of a name, a dot, a colon, a port
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Authority:
    """A host, without a trailing dot or brackets, in lower case; and a port, where one is named."""

    host: str
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Authority | None":
        """What a `Host` header says; None where it is not well formed."""
        return _authority(text.lower()) if len(text) <= _LONGEST else None

    @cached_property
    def loopback(self) -> bool:
        """Whether it is this very machine, whoever asks."""
        return is_loopback(self.host)


@dataclass(frozen=True)
class Origin:
    """A scheme and an authority; the port is always named where the scheme has one."""

    scheme: str
    authority: Authority

    @classmethod
    def parse(cls, text: str) -> "Origin | None":
        """What an `Origin` header says; None for `null`, and where it is not well formed."""
        scheme, mark, rest = text.lower().partition("://")
        authority = Authority.parse(rest)
        if not mark or authority is None or not _SCHEME.fullmatch(scheme):
            return None
        return cls(scheme, _with_port(authority, scheme))

    @classmethod
    def of_url(cls, url: str) -> "Origin | None":
        """The origin of a `Referer`, which is a URL without a fragment."""
        scheme, mark, rest = url.partition("://")
        return cls.parse(scheme + mark + re.split(r"[/?#]", rest, maxsplit=1)[0])

    @property
    def loopback(self) -> bool:
        """Whether it is a page of this very machine."""
        return self.scheme in _PORTS and self.authority.loopback


@dataclass(frozen=True)
class Access:
    """Which origins and hosts are allowed; `None` is all of them."""

    origins: frozenset[Origin] | None
    loopback: bool  # whether pages of this machine are allowed without being listed
    hosts: frozenset[str] | None

    @classmethod
    def of(cls, bound: str, origins: Sequence[str], hosts: Sequence[str]) -> "Access":
        """What the settings say.

        Args:
            bound: the address that is listened on. Where it is a loopback address, no host is
                allowed but loopback ones and those listed.
            origins: those listed; `*` is any, `none` is none but one's own.
            hosts: names listed; `*` is any.

        Raises:
            ValueError: an entry is not well formed.
        """
        origins = [text.lower() for text in origins]
        if NONE in origins and len(origins) > 1:
            raise ValueError(f"{NONE!r} cannot be combined with other origins")
        listed = frozenset(_listed_origin(text) for text in origins if text not in (ANY, NONE))
        names = frozenset(_listed_host(text) for text in hosts if text != ANY)
        closed = ANY not in hosts and (bool(names) or is_loopback(bound.lower()))
        return cls(
            origins=None if ANY in origins else listed,
            loopback=NONE not in origins,
            hosts=names if closed else None,
        )

    def answers(self, host: Authority | None) -> bool:
        """Whether the server is called by this `Host`."""
        if self.hosts is None:
            return True
        return host is not None and (host.loopback or host.host in self.hosts)

    def allows(self, origin: Origin | None, host: Authority | None) -> bool:
        """Whether a page of this origin may use the server that it called by this `Host`."""
        if self.origins is None:
            return True
        if origin is None:
            return False
        own = host is not None and origin.authority == _with_port(host, origin.scheme)
        return own or origin in self.origins or (self.loopback and origin.loopback)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, without brackets, is this very machine (RFC 6761, 5735)."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


@lru_cache(256)  # clients call a server by few names
def _authority(text: str) -> Authority | None:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    port = int(found["port"]) if found["port"] else None
    host = _address(found["host"]) if found["host"][0] == "[" else found["host"]
    if host is None or (port or 0) > 65535:
        return None
    return Authority(host.removesuffix("."), port)


def _listed_origin(text: str) -> Origin:
    origin = Origin.parse(text.removesuffix("/"))
    if origin is None:
        raise ValueError(
            f"{text!r} is not an origin; allowed: scheme://host or scheme://host:port without path,"
            f" or {ANY!r} for any, or {NONE!r} alone"
        )
    return origin


def _listed_host(text: str) -> str:
    bare = f"[{text}]" if text.count(":") > 1 and text[0] != "[" else text
    authority = Authority.parse(bare)
    if authority is None or authority.port is not None:
        raise ValueError(
            f"{text!r} is not a host; allowed: a name or an address without scheme, port or path,"
            f" or {ANY!r} for any"
        )
    return authority.host


def _with_port(authority: Authority, scheme: str) -> Authority:
    return Authority(authority.host, authority.port or _PORTS.get(scheme))


def _address(bracketed: str) -> str | None:
    try:
        return str(ipaddress.IPv6Address(bracketed[1:-1]))
    except ValueError:
        return None
