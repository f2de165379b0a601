"""What happens around every request; pure ASGI, so that a client's leaving is seen at once.

Starlette's BaseHTTPMiddleware, and `@app.http.middleware("http")` with it, hides `http.disconnect`.
"""

import asyncio
import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http import logs

_PLAIN = re.compile(rb"[!-~]{1,128}")


class RequestId:
    """Answer with `X-Request-Id`: the client's own, or a new one where it sent none of use.

    The log names it, and `scope["state"]["request_id"]` has it for whatever serves the request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = [value for name, value in scope["headers"] if name == b"x-request-id"]
        useful = bool(given) and _PLAIN.fullmatch(given[0])
        request_id = given[0].decode() if useful else secrets.token_hex(16)
        header = (b"x-request-id", request_id.encode())
        scope.setdefault("state", {})["request_id"] = request_id
        logs.request_id.set(request_id)

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await self._app(scope, receive, marked)


class CancelOnDisconnect:
    """Cancel whatever serves a request as soon as its client has left."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, and look out for the client's leaving."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        task = asyncio.current_task()
        assert task is not None
        watcher: asyncio.Task[None] | None = None
        left = asyncio.Event()
        over = False

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            if not over:
                task.cancel()

        async def received() -> Message:
            nonlocal watcher
            if watcher is not None:
                await left.wait()
                return {"type": "http.disconnect"}
            message = await receive()
            if message["type"] == "http.disconnect":
                left.set()
                raise asyncio.CancelledError
            if not message.get("more_body"):
                watcher = asyncio.create_task(watch())
            return message

        async def sent(message: Message) -> None:
            nonlocal over
            last = message["type"] == "http.response.body" and not message.get("more_body")
            over = over or last
            await send(message)

        if scope["method"] in ("GET", "HEAD"):  # no route reads a body that comes with these
            watcher = asyncio.create_task(watch())
        try:
            await self._app(scope, received, sent)
        except asyncio.CancelledError:
            if not left.is_set():
                raise
            if task.cancelling():
                task.uncancel()
        finally:
            if watcher is not None:
                watcher.cancel()
