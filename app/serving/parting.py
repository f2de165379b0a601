"""How a connection ends: answers that are not taken, refusals that are heard, a last word."""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

from app.engine.outgoing import Outgoing
from app.errors import MEDIA_TYPE, Fault, Problem
from app.http.crowd import Bounds

_LINGER_SECONDS, _LINGER_BYTES = 1.0, 1 << 20  # of input after a refusal, which is thrown away


class Parting(HttpToolsProtocol):
    """uvicorn's connection, that takes leave of its client before it is closed."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        bounds: Bounds,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.bounds = bounds
        self.serving: RequestResponseCycle | None = None  # the request, the last one once answered
        self.deaf = False  # what still comes is thrown away
        self.departed = False
        self._ignored = 0  # bytes
        self._end: asyncio.TimerHandle | None = None  # when the connection is cut

    @property
    def incomplete(self) -> bool:
        """Whether a part of a request is there, and not all of it."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(Outgoing(transport))  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        """End what is served; uvicorn would tell the request that came last, and no other."""
        self.pipeline.clear()
        self.cancel_served()
        for timer in (self._end, self.timeout_keep_alive_task):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client has stopped reading its answer; cut the connection if it does not go on."""
        super().pause_writing()
        self._end_in(self.bounds.answer_seconds)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._end is not None and not self.departed:
            self._end.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Nothing arrived after an answer."""
        self.depart()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self.serving = cycle
        cycle.transport = _Exit(self)  # type: ignore[assignment]
        super()._start_asgi_task(cycle, app)

    def ignore(self, data: bytes) -> None:
        """Throw away what comes after a refusal; there is an end to that as well."""
        self._ignored += len(data)
        if self._ignored > _LINGER_BYTES:
            self.transport.abort()

    def cancel_served(self) -> None:
        """Whatever serves a request is told that its client has left."""
        served = self.serving
        if served is not None and not served.response_complete:
            served.disconnected = True
            served.message_event.set()

    def tell(self, status: int, detail: str, **headers: str) -> None:
        """Write a whole answer: problem details, and the word that nothing follows."""
        problem = Problem.of(Fault(status, HTTPStatus(status).phrase, detail))
        body = problem.model_dump_json().encode()
        fields = headers | {
            "content-type": MEDIA_TYPE,
            "content-length": str(len(body)),
            "x-request-id": uuid.uuid4().hex,
            "connection": "close",
        }
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items()]
        self.transport.write(
            b"".join([STATUS_LINE[status], "".join(lines).encode(), b"\r\n", body])
        )

    def depart(self) -> None:
        """Close, once what was said is taken.

        If it were closed with unread input, the connection would be reset, and the answer lost. So
        the client is told that nothing more comes, and its input is thrown away for a while.
        """
        if self.departed:
            return
        self.departed = True
        if self.incomplete and not self.transport.is_closing():
            self.deaf = True
            self.flow.resume_reading()
            self.transport.write_eof()
            self._end_in(_LINGER_SECONDS)
        else:
            self.transport.close()
            self._end_in(self.bounds.answer_seconds)

    def _end_in(self, seconds: float) -> None:
        if self._end is not None:
            self._end.cancel()
        self._end = self.loop.call_later(seconds, self.transport.abort)


class _Exit:
    """The transport as a request that is served knows it: closing may take a while.

    The cycle that is served may notice the end later than it comes, and may say nothing after it.
    """

    def __init__(self, parting: Parting) -> None:
        self._parting = parting
        self.is_closing, self.close = parting.transport.is_closing, parting.depart

    def write(self, data: bytes) -> None:
        """Send a part of an answer."""
        if not self._parting.departed:
            self._parting.transport.write(data)
