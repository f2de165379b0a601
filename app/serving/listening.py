"""Where the server listens: both kinds of address that a name stands for, on one port."""

import errno
import socket

_BACKLOG = 2048  # connections that wait to be taken
_TRIED = 20  # ports, in search of one that is free
_BOTH = {"localhost": ("127.0.0.1", "::1"), "::": ("0.0.0.0", "::")}
_MISSING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # IPv6, on a machine that has none
_Address = tuple[socket.AddressFamily, str]


class CannotListen(OSError):
    """The server cannot listen there; the message says why, and what would work."""


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at every address of a host; port 0 is one that is free at all of them.

    `localhost` and `::` (every address) mean IPv4 and IPv6, each with its own socket, so that an
    IPv4 client is seen by its own address. On a machine with only one kind, that kind is enough.

    Raises:
        CannotListen: no such host, or not of this machine; a port that is taken, or is not for us.
    """
    addresses = _addresses(host)
    try:
        listening = _bind_all(addresses, port or _free(addresses, 0))
    except OSError as error:
        raise CannotListen(_reason(host, port, addresses, error)) from error
    if not listening:
        raise CannotListen(f"{host[:80]!r} is not an address of this machine")
    for each in listening:
        each.listen(_BACKLOG)
    return listening


def url_of(host: str, listening: list[socket.socket]) -> str:
    """The address to tell a person: `localhost` where any will do."""
    address, port = listening[0].getsockname()[:2]
    if address in ("::", "0.0.0.0"):  # also by other names: `*`, `0`
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _addresses(host: str) -> list[_Address]:
    """Every address of a host."""
    found: dict[_Address, None] = {}
    for name in _BOTH.get(host, (host,)):
        try:
            infos = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            raise CannotListen(f"no such host: {host[:80]!r}") from error
        found |= {(family, str(address[0])): None for family, _, _, _, address in infos}
    return list(found)


def _bind_all(addresses: list[_Address], port: int) -> list[socket.socket]:
    """A socket for each address that this machine has; none is left open where one cannot be."""
    bound: list[socket.socket] = []
    try:
        for family, name in addresses:
            try:
                bound.append(_bind(family, name, port))
            except OSError as error:
                if error.errno not in _MISSING:
                    raise
    except OSError:
        for each in bound:
            each.close()
        raise
    return bound


def _bind(family: socket.AddressFamily, name: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((name, port))
    except OSError:
        made.close()
        raise
    return made


def _free(addresses: list[_Address], after: int) -> int:
    """A port that is free at all addresses: the next ones `after`, or any for 0; 0 if none is."""
    for k in range(1, _TRIED + 1):
        try:
            bound = _bind_all(addresses, after + k if after else 0)
            port = int(bound[0].getsockname()[1]) if bound else 0
            for each in bound:
                each.close()
            for each in _bind_all(addresses, port):  # of port 0 each address was given its own
                each.close()
        except (OSError, OverflowError):
            continue
        return port
    return 0


def _reason(host: str, port: int, addresses: list[_Address], error: OSError) -> str:
    """Why listening fails, and what would work."""
    if error.errno == errno.EADDRINUSE:
        free = _free(addresses, port)
        other = f"port {free} is free: PORT={free} make serve, or darkroom serve --port {free}"
        return f"port {port} is in use at {host!r}" + (f"; {other}" if free else "")
    if error.errno == errno.EACCES:
        return f"port {port} is not open to this user; allowed: 1024 to 65535"
    return f"cannot listen at {host[:80]!r}, port {port}: {error.strerror}"
