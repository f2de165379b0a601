"""The address of a webhook: checked when a job is accepted, and read the same way when called."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from app.http.addresses import Address, Allowance, host_of

MAX_URL = 2048  # characters
_PLAIN = re.compile(r"[!-~]+")  # what is not ASCII is to be escaped, and host names in IDNA
_PORTS = {"http": 80, "https": 443}
_LOOPBACK = (ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1"))
_ALLOWED = (
    "an https or http URL of a public host, of at most 2048 ASCII characters, without a user name, "
    "a password or a fragment"
)


@dataclass(frozen=True)
class Target:
    """Where to call: a host and a port, and what to ask of them."""

    scheme: str
    host: str | Address
    port: int
    path: str  # and the query

    @classmethod
    def parse(cls, url: str) -> Self:
        """Take a URL apart; raises `ValueError`, which says what is allowed."""
        try:
            return cls._parse(url)
        except ValueError as error:
            raise ValueError(f"{error}; allowed: {_ALLOWED}") from error

    @classmethod
    def _parse(cls, url: str) -> Self:
        if len(url) > MAX_URL:
            raise ValueError(f"it has {len(url)} characters")
        if not _PLAIN.fullmatch(url) or "\\" in url:
            raise ValueError("it has characters that no URL has; they are to be escaped")
        parts = urlsplit(url)
        if parts.scheme not in _PORTS:
            raise ValueError("it begins neither with https:// nor with http://")
        if "@" in parts.netloc:
            raise ValueError("it has a user name or a password")
        if "#" in url:
            raise ValueError("it has a fragment")
        bare, port = _split(parts.netloc)
        path = parts.path or "/"
        query = f"?{parts.query}" if parts.query else ""
        return cls(parts.scheme, host_of(bare), port or _PORTS[parts.scheme], path + query)

    @property
    def authority(self) -> str:
        """The host, and the port unless it is the scheme's own: the header `Host`."""
        own = self.port == _PORTS[self.scheme]
        return _bracketed(self.host) + ("" if own else f":{self.port}")

    def at(self, address: Address) -> str:
        """The URL with an address in place of the host."""
        return f"{self.scheme}://{_bracketed(address)}:{self.port}{self.path}"


def check_url(url: str, allowance: Allowance) -> None:
    """Refuse what will never be called. Names are looked up when they are called, and only then.

    Raises:
        ValueError: it may not be called; the message says why, and what is allowed.
    """
    host = Target.parse(url).host
    if isinstance(host, str):
        local = host == "localhost" or host.endswith(".localhost")  # RFC 6761, 6.3
        known: tuple[Address, ...] = _LOOPBACK if local else ()
    else:
        known = (host,)
    if known and not any(allowance.permits(host, address) for address in known):
        raise ValueError(
            "its host is not public; allowed: public hosts, and those in DARKROOM_WEBHOOK_ALLOW"
        )


def _split(netloc: str) -> tuple[str, int | None]:
    """A host and a port; raises `ValueError`."""
    bare, port = netloc, ""
    if not netloc.endswith("]"):
        bare, colon, port = netloc.rpartition(":")
        if not colon:
            bare, port = netloc, ""
    if port and not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise ValueError("its port is not one of 1 to 65535")
    return bare, int(port) if port else None


def _bracketed(host: str | Address) -> str:
    return f"[{host}]" if isinstance(host, ipaddress.IPv6Address) else str(host)
