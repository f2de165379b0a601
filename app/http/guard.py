"""Refuse what pages of foreign origins ask, and what is not asked by this server's name.

It runs before anything reads a body. Clients that are not browsers send neither `Origin` nor
`Sec-Fetch-*`, so only the check of `Host` applies to them.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import fault_of
from app.http.origins import Access, Authority, Origin
from app.http.problems import problem
from app.http.proxies import route_path

PROBES = {
    "/livez",
    "/readyz",
    "/health",
    "/v2/health/live",
    "/v2/health/ready",
}  # they tell nothing more
PAGES = {"/", "/docs", "/redoc"}  # a link from anywhere may lead to them
_HOST = (
    "this server does not answer to this Host; allowed: localhost, loopback addresses,"
    " and the names in DARKROOM_ALLOWED_HOSTS"
)
_ORIGIN = (
    "pages of this origin may not use this server; allowed: its own, and those that"
    " DARKROOM_CORS_ORIGINS allows"
)
_UNCACHED = {"Cache-Control": "no-store", "Vary": "Origin"}


class OriginGuard:
    """Answer 403 to foreign origins and hosts; let pages of allowed origins read the answers."""

    def __init__(self, app: ASGIApp, access: Access, expose: Sequence[str]) -> None:
        self._app, self._access = app, access
        self._allowed = CORSMiddleware(
            app,
            allow_origins=["*"] if access.origins is None else [],
            allow_origin_regex=".*",  # those that come here are allowed
            allow_methods=["*"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=expose,
        )
        self._unreadable = CORSMiddleware(app)  # no origin may read; `Vary` says why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._allowed(scope, receive, send)
            return
        headers = Headers(scope=scope)
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        host = Authority.parse(hosts[0]) if len(hosts) == 1 else None
        if not self._access.answers(host):
            await _refuse(_HOST)(scope, receive, send)
        elif not self._foreign(headers, origins, host):
            if origins:
                await self._allowed(scope, receive, send)
            else:
                await self._app(scope, receive, _varying(send))
        elif _harmless(scope, headers):
            await self._unreadable(scope, receive, send)
        else:
            await _refuse(_ORIGIN)(scope, receive, send)

    def _foreign(self, headers: Headers, origins: Sequence[str], host: Authority | None) -> bool:
        """Whether a page asks that may not."""
        if origins:
            return not all(self._access.allows(Origin.parse(each), host) for each in origins)
        sites = headers.getlist("sec-fetch-site")
        site = sites[0] if sites else None
        if site == "same-site" and host is not None and host.loopback and self._access.loopback:
            return False  # another port of this machine
        if site not in ("same-site", "cross-site"):
            return False
        # Such as an <img>, which has no Origin.
        return not self._access.allows(Origin.of_url(headers.get("referer", "")), host)


def _varying(send: Send) -> Send:
    """Tell caches that pages may be answered otherwise; `CORSMiddleware` does so at length."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            said = [value for name, value in headers if name == b"vary"]
            others = [pair for pair in headers if pair[0] != b"vary"]
            message["headers"] = [*others, (b"vary", b", ".join([*said, b"Origin"]))]
        await send(message)

    return sent


def _harmless(scope: Scope, headers: Headers) -> bool:
    """Whether it starts and stops nothing and its answer goes to no page: a probe, or a link."""
    if scope["method"] not in ("GET", "HEAD"):
        return False
    if route_path(scope) in PROBES:
        return True
    followed = "origin" not in headers and headers.get("sec-fetch-dest") == "document"
    return followed and route_path(scope) in PAGES


def _refuse(detail: str) -> ASGIApp:
    return problem(fault_of(HTTPException(403, detail, _UNCACHED)))
