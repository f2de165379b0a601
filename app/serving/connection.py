"""One HTTP/1.1 connection: uvicorn's protocol, with a bound on all that a client can make it hold.

The size of heads and bodies is bounded, and so is the time that they take to arrive. While requests
wait behind another one on the same connection, uvicorn stops reading and does not notice that a
client leaves. Here reading goes on, and only a few requests may wait.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.server import ServerState

from app.http.crowd import Crowd, client_of
from app.serving.parting import Parting

_MOST_WAITING = 16  # requests behind the one that is served
_MOST_BUFFERED = 1 << 16  # bytes of the body of one that waits
_FRAMING = 16  # bytes of chunked coding for each byte of a body, at most
_UPGRADING = (b"upgrade", b"http2-settings")  # RFC 9110, 7.8: may be ignored


class _Refusal(Exception):
    """A request that is not to be served; raised in the parser's callbacks."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


class Connection(Parting):
    """A client, from its first byte to its last."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        crowd: Crowd,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop, bounds=crowd.bounds)
        self._crowd = crowd
        self.address = ""
        self._begun = self._in_body = self._upgrading = False  # of the request that comes in
        self._keeps_alive = False  # what it asks for
        self._part = 0  # which head or body is coming in
        self._came = 0  # bytes of it so far; of a body, its framing alone
        self._due: asyncio.TimerHandle | None = None  # when it has to be there

    @property
    def incomplete(self) -> bool:
        """Whether a part of a request is there, and not all of it."""
        return self._begun or self._came > 0

    @property
    def _waiting(self) -> bool:
        """Whether it is the client's turn: no whole request is being served."""
        served = self.serving
        if served is None or served.response_complete:
            return True
        return self._in_body and self.cycle is served

    # What the transport tells.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, where there is room for one more."""
        super().connection_made(transport)
        self.address = client_of(self.client[0]) if self.client else ""
        if self._crowd.enter(self):
            self._look_out()
        else:
            self.deaf = self.departed = True
            self.tell(503, "too many connections are open", retry_after="1")
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left, or was sent away."""
        self._crowd.leave(self)
        self._set_no_time()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, piece by piece: no head is fed beyond its limit."""
        self._unset_keepalive_if_required()
        first, most = 0, self.bounds.head_bytes
        while first < len(data) and not self.deaf:
            piece = data[first : first + max(most - self._came, 1)]
            self._feed(piece)
            first += len(piece)
        if self.deaf:
            self.ignore(data)
        else:
            self._look_out()

    def shutdown(self) -> None:
        """The server stops: what is not whole by now is refused."""
        if self._waiting and self.incomplete:
            self._refuse(503, "the server is stopping")
        elif not self.departed:
            super().shutdown()

    # What the parser tells.

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._begun = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A whole head: begin to serve it, or let it wait for the one before."""
        self._next_part(in_body=True)
        if self.parser.get_method() == b"CONNECT":
            raise _Refusal(405, "this server is not a proxy")
        if self.parser.should_upgrade():
            self._upgrading = True  # the parser stops here, and `_feed` goes on
            return
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts != 1 and (hosts or self.parser.get_http_version() != "1.0"):
            raise _Refusal(400, f"there are {hosts} Host headers; exactly one is needed")
        if len(self.pipeline) >= _MOST_WAITING:
            raise _Refusal(429, "too many requests are waiting on this connection")
        super().on_headers_complete()
        self.flow.resume_reading()
        # An answer that comes before the request is whole closes the connection.
        self._keeps_alive, self.cycle.keep_alive = self.cycle.keep_alive, False

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._came -= _FRAMING * len(body)
        if self.cycle is not self.serving and len(self.cycle.body) + len(body) > _MOST_BUFFERED:
            raise _Refusal(413, "the body of a waiting request is too large")
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A whole request."""
        if self._upgrading:
            return
        self._next_part(in_body=False)
        self._begun = False
        if not self.cycle.response_started:
            self.cycle.keep_alive = self._keeps_alive
        super().on_message_complete()
        self._crowd.mark(self, waiting=False)

    # What the request that is served tells.

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        if self.departed:
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        self._crowd.mark(self, waiting=self._waiting)
        self._look_out()

    # Ours.

    def evict(self) -> None:
        """Make room for another: nothing is told, as nothing was asked."""
        self.transport.abort()

    def _feed(self, data: bytes) -> None:
        part = self._part
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._feed(self._without_upgrade() + data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            cause = error.__context__
            known = cause if isinstance(cause, _Refusal) else None
            self._refuse(
                known.status if known else 400, str(known or "this is not an HTTP request")
            )
            return
        if part == self._part:
            self._came = max(self._came + len(data), 0)
        if self._came < self.bounds.head_bytes:
            return
        if self._in_body:
            self._refuse(400, "the chunk headers of the body are too large")
        else:
            self._refuse(431, f"the head is too large; allowed: {self.bounds.head_bytes} bytes")

    def _without_upgrade(self) -> bytes:
        """The head that came last, asking for no other protocol; it is parsed anew."""
        head = [self.parser.get_method(), b" ", self.url, b" HTTP/1.1\r\n"]
        for name, value in self.headers:
            if name == b"connection":
                tokens = [token.strip() for token in value.split(b",")]
                value = b", ".join(t for t in tokens if t.lower() not in _UPGRADING)
            if name not in _UPGRADING:
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._upgrading = self._in_body = False
        return b"".join([*head, b"\r\n"])

    def _next_part(self, *, in_body: bool) -> None:
        """Count anew, for the body or the next head."""
        self._in_body = in_body
        self._part += 1
        self._came = 0
        self._set_no_time()

    def _look_out(self) -> None:
        """Give what is incomplete so long from now, unless it has a time already."""
        if self._due is None and self._waiting and (self.incomplete or self.cycle is None):
            bounds = self.bounds
            seconds = bounds.body_seconds if self._in_body else bounds.head_seconds
            self._due = self.loop.call_later(seconds, self._late)

    def _set_no_time(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _late(self) -> None:
        self._due = None
        if self.incomplete:
            self._refuse(408, "the request did not arrive in time")
        else:
            self.depart()

    def _refuse(self, status: int, detail: str) -> None:
        """Take nothing more, and say why; a whole request that is served is answered first."""
        if self.deaf:
            return
        self.deaf = True
        self.pipeline.clear()
        served = self.serving
        telling = served and served.response_started and not served.response_complete
        if self._waiting and not telling:
            self.cancel_served()
            self.tell(status, detail)
            self.depart()
        elif served:
            served.keep_alive = False
