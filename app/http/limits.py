"""Bounds on what a client may send, held before anything is read into memory."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import fault_of
from app.http.problems import problem


class BodyLimit:
    """Refuse a body beyond `limit` bytes with 413, by its declared length or as it comes in.

    FastAPI's own `max_body_size` answers in plain text; raising here, where the body is read, lets
    the refusal become problem details like every other.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, its `receive` counting bytes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"content-length"]
        length = given[0] if given else b""
        declared = int(length) if length.isdigit() and len(length) < 20 else 0
        received = 0

        async def counted() -> Message:
            nonlocal received
            if declared > self._limit:
                raise self._refusal()
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._limit:
                raise self._refusal()
            return message

        await self._app(scope, counted, send)

    def _refusal(self) -> HTTPException:
        return HTTPException(413, f"the body is too large; allowed: {self._limit} bytes")


class TargetLimit:
    """Refuse a path with its query beyond `limit` bytes with 414.

    FastAPI parses every query, whether a route asks for it or not: 24 ms for 60 KB.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app, self._limit = app, limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        long = scope["type"] == "http" and len(scope["path"]) + len(scope["query_string"])
        if long <= self._limit:
            await self._app(scope, receive, send)
            return
        allowed = f"allowed: {self._limit} bytes of path and query"
        refusal = HTTPException(414, f"the address is too long; {allowed}")
        await problem(fault_of(refusal))(scope, receive, send)
