"""Tells the operator's side of every request: how it was asked, and how it was answered."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.crowd import client_of
from app.http.proxies import route_path
from app.telemetry.account import Account
from app.telemetry.telemetry import Telemetry

# Asked several times per minute by machines; they would only drown the rest.
UNOBSERVED = {"/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "/metrics"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"}
_OTHER = "_OTHER"  # OpenTelemetry's name of a method that nobody knows
_CALLERS = {b"traceparent", b"tracestate", b"baggage", b"b3"}
_PAGE = "page"
_MOST_HEADER = 8192  # characters of one


class Observe:
    """Keep the account of each request, and hand it over when the request has ended."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app, self._telemetry = app, telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or route_path(scope) in UNOBSERVED:
            await self._app(scope, receive, send)
            return
        account = _account(scope)
        span = self._telemetry.begin(account, _callers(scope))
        complete = False

        async def sent(message: Message) -> None:
            nonlocal complete
            if message["type"] == "http.response.start":
                account.status = message["status"]
            elif message["type"] == "http.response.body":
                account.sent += len(message.get("body", b""))
                complete = not message.get("more_body")
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Exception:  # Starlette answers it, outside of all that is ours
            complete = True
            account.status, account.reason = account.status or 500, "bug"
            raise
        finally:
            account.ended = time.monotonic()
            account.route, account.client = _template(scope), _client(scope)
            account.left = not complete
            self._telemetry.end(account, span)


def _account(scope: Scope) -> Account:
    method, state = scope["method"], scope.get("state", {})
    named = method if method in _METHODS else _OTHER
    return Account(named, request_id=state.get("request_id", ""))


def _client(scope: Scope) -> str:
    """The name of a key, if one was told, or the address."""
    address = client_of(scope["client"][0]) if scope.get("client") else ""
    return str(scope.get("state", {}).get("client", address))


def _callers(scope: Scope) -> dict[str, str]:
    """The headers that say what a request is part of."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if (name in _CALLERS or name.startswith(b"x-b3-")) and len(value) <= _MOST_HEADER
    }


def _template(scope: Scope) -> str:
    """The path of the route that served a request, as it was declared; empty where there is none.

    Only FastAPI's own routes tell theirs; the pages and their files are one.
    """
    if route := scope.get("route"):
        return str(getattr(route, "path", ""))
    return _PAGE if "endpoint" in scope else ""
