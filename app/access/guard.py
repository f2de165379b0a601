"""Refuse what has no right key, before anything reads a body."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.admission import Admission
from app.access.rates import Meter
from app.errors import RequestError, fault_of
from app.http.guard import PAGES, PROBES
from app.http.problems import Envelope
from app.http.proxies import route_path

# They tell what the API is, and nothing of what is done with it; a page has to ask for a key. Who
# may read /metrics is a setting of its own.
_OPEN = PROBES | PAGES | {"/openapi.json", "/favicon.ico", "/redoc/logo-mini.svg", "/metrics"}
_FILES = "/static/"


def is_open(path: str) -> bool:
    """Whether a path needs no key; whatever is not listed needs one."""
    return path in _OPEN or path.startswith(_FILES)


class KeyGuard:
    """Answer 401 where a key is needed and was not recognised, and tell others what is left.

    `envelope_of` gives the form of errors of the route that a request is for.
    """

    def __init__(
        self, app: ASGIApp, admission: Admission, envelope_of: Callable[[Scope], Envelope]
    ) -> None:
        self._app, self._admission, self._envelope_of = app, admission, envelope_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and not is_open(route_path(scope)):
            try:
                self._admission.admit(scope)
            except RequestError as error:
                await self._envelope_of(scope)(fault_of(error))(scope, receive, send)
                return
            if (meter := self._admission.meter(scope)) and meter.rate:
                send = _telling(send, meter)
        await self._app(scope, receive, send)


def _telling(send: Send, meter: Meter) -> Send:
    """Say with every answer how much is left, unless the answer itself does."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", ()))
            if not any(name.lower() == b"ratelimit" for name, _ in headers):
                told = meter.headers().items()
                headers += [(name.lower().encode(), value.encode()) for name, value in told]
            message["headers"] = headers
        await send(message)

    return sent
