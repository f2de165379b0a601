"""Which hosts and addresses may be called: public ones, and those that the settings allow."""

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 4291, 2.4. Outside of it lie mapped (::ffff:0:0/96), compatible and NAT64 addresses (RFC 6052,
# RFC 8215), which all hold an IPv4 address that a gateway or the kernel would connect to.
_UNICAST = ipaddress.IPv6Network("2000::/3")
_RELAYS = ipaddress.IPv4Network("192.88.99.0/24")  # of 6to4; RFC 7526
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_LONGEST_NAME = 253  # characters; RFC 1035, 2.3.4
_BRIEF = 80


def is_public(address: Address) -> bool:
    """Whether it is an address of the internet: of one machine, and with no other inside it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address not in _UNICAST or address.sixtofour or address.teredo:
            return False
    elif address in _RELAYS:
        return False
    return address.is_global and not address.is_multicast


def host_of(text: str) -> str | Address:
    """A host as a URL has it: a name in lower case without its last dot, or an address.

    `inet_aton` takes 2130706433, 0x7f.1 and 0177.0.0.1 for 127.0.0.1. What ends in a number is
    an address (WHATWG URL, 3.5), and has to be written as four decimal numbers.

    Raises:
        ValueError: it is neither.
    """
    host = text.lower()
    if host.startswith("[") and host.endswith("]"):
        if "%" in host:
            raise ValueError("a zone belongs to one machine")
        return ipaddress.IPv6Address(host[1:-1])
    name = host.removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return ipaddress.IPv4Address(name)
    if len(name) > _LONGEST_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text[:_BRIEF]!r} is not the name of a host")
    return name


@dataclass(frozen=True)
class Allowance:
    """The hosts that may be called though their addresses are not public."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[str]) -> Self:
        """Names, addresses and networks, as the settings have them; raises `ValueError`."""
        names, networks = set(), []
        for entry in entries:
            try:
                if "/" in entry or ":" in entry:
                    networks.append(ipaddress.ip_network(entry.strip("[]")))
                elif isinstance(host := host_of(entry), str):
                    names.add(host)
                else:
                    networks.append(ipaddress.ip_network(host))
            except ValueError as error:
                these = "the name of a host, an address, or a network such as 10.0.0.0/8"
                told = f"{entry[:_BRIEF]!r} is none of these: {these}"
                raise ValueError(told) from error
        return cls(frozenset(names), tuple(networks))

    def permits(self, host: str | Address, address: Address) -> bool:
        """Whether an address may be connected to that a host has."""
        if host in self.names or is_public(address):
            return True
        return any(address in network for network in self.networks)
