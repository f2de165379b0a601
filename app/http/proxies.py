"""What reverse proxies say of a request that they pass on, believed of those that are trusted.

uvicorn reads `X-Forwarded-For` and `-Proto`. This module reads `-Host` and `-Prefix`, and
`Forwarded` (RFC 7239) if a proxy sends none of `-For`, `-Proto` and `-Host`. With them, addresses
in answers are right behind TLS and below a path.
"""

import ipaddress
import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.http.origins import Authority

# A path that a service may stand below; `.` and `..` are no names of folders.
PREFIX = re.compile(r"(/(?!\.{1,2}(/|$))[\w.~-]+)+", re.ASCII)
_PAIR = re.compile(r'\s*([a-z]+)=("[^"]*"|[^;,\s"]*)\s*', re.IGNORECASE)
_LONGEST = 4096  # bytes of `Forwarded`
_OLDER = {f"x-forwarded-{name}".encode() for name in ("for", "proto", "host")}  # say the same
Headers = list[tuple[bytes, bytes]]


class BehindProxy:
    """Give a request the client, scheme, host and root path that it has before the proxy.

    `root_path` holds if no proxy names a prefix.
    """

    def __init__(self, app: ASGIApp, trusted: Sequence[str], root_path: str) -> None:
        self._app: ASGIApp = ProxyHeadersMiddleware(app, list(trusted))  # type: ignore[assignment, arg-type]
        self._networks = [ipaddress.ip_network(each) for each in trusted]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            prefix = self._root_path
            if self._trusts(scope):
                headers = scope["headers"] = _plain_scheme(_translated(scope["headers"]))
                host = _last(headers, b"x-forwarded-host")
                told = _last(headers, b"x-forwarded-prefix").rstrip("/")
                if Authority.parse(host):
                    rest = [pair for pair in headers if pair[0] != b"host"]
                    scope["headers"] = [(b"host", host.encode()), *rest]
                if PREFIX.fullmatch(told):
                    prefix = told
            if prefix:
                scope["root_path"] = prefix  # ASGI: `path` begins with it, kept by the proxy or not
                below = scope["path"].startswith(f"{prefix}/") or scope["path"] == prefix
                scope["path"] = scope["path"] if below else prefix + scope["path"]
        await self._app(scope, receive, send)

    def _trusts(self, scope: Scope) -> bool:
        if not self._networks or not scope.get("client"):
            return False
        try:
            address = ipaddress.ip_address(scope["client"][0])
        except ValueError:
            return False
        return any(address in network for network in self._networks)


def route_path(scope: Scope) -> str:
    """The path of a request as the service knows it, without where the service stands."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) or "/"


def _translated(headers: Headers) -> Headers:
    """`Forwarded` as the headers that came before it, where none of these is there."""
    said = ",".join(value.decode("latin-1") for name, value in headers if name == b"forwarded")
    others = any(name in _OLDER for name, _ in headers)
    if not said or others or len(said) > _LONGEST:
        return headers
    hops = [
        {name.lower(): value.strip('"') for name, value in _PAIR.findall(hop)}
        for hop in said.split(",")
    ]
    clients = ", ".join(hop["for"] for hop in hops if hop.get("for"))
    told = {"for": clients, "proto": hops[-1].get("proto", ""), "host": hops[-1].get("host", "")}
    return [
        *headers,
        *(
            (f"x-forwarded-{name}".encode(), value.encode())
            for name, value in told.items()
            if value
        ),
    ]


def _plain_scheme(headers: Headers) -> Headers:
    """`X-Forwarded-Proto` as uvicorn reads it: one scheme, in lower case."""
    name = b"x-forwarded-proto"
    scheme = _last(headers, name).lower().encode("latin-1")
    return [(key, scheme if key == name else value) for key, value in headers]


def _last(headers: Headers, name: bytes) -> str:
    """What the nearest proxy said in a header, which each one may have added to."""
    said = [value for key, value in headers if key == name]
    return said[-1].decode("latin-1").split(",")[-1].strip() if said else ""
