"""uvicorn's server as this one runs it: bounded connections, and an end that answers everybody."""

import asyncio
import contextlib
import functools
import os
import signal
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app import logs
from app.connection import Connection
from app.crowd import Bounds, Crowd, most_connections
from app.engine.client import EngineClient
from app.settings import Settings

_ANSWERS_SECONDS = 1.0  # for what the end of the drain fails to be told
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Ends by a signal with status 0; by a second one, at once."""

    def __init__(self, app: FastAPI, settings: Settings, engine: EngineClient) -> None:
        bounds = Bounds(
            connections=settings.max_connections or most_connections(),
            head_bytes=settings.max_header_bytes,
            head_seconds=settings.header_seconds,
            body_seconds=settings.body_seconds,
            answer_seconds=settings.answer_seconds,
        )
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.host,
                port=settings.port,
                http=functools.partial(Connection, crowd=Crowd(bounds)),  # type: ignore[arg-type]
                ws="none",
                log_config=logs.CONFIG,
                access_log=False,
                proxy_headers=bool(settings.trusted_proxies),
                forwarded_allow_ips=list(settings.trusted_proxies),  # else from the environment
            )
        )
        self._engine, self._drain = engine, float(settings.drain_seconds)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle them while this runs; uvicorn would raise them once more in the end."""
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain; the second time, end without."""
        if self.should_exit:
            if (worker := self._engine.supervisor.worker) is not None:
                worker.process.kill()  # it may hang, and would stay
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: None = None) -> None:  # type: ignore[override]
        """Let what can be done in time be done, and tell the others."""
        loop = asyncio.get_running_loop()
        draining = loop.create_task(self._engine.drain(self._drain))
        cut = loop.call_later(self._drain + _ANSWERS_SECONDS, self._cut)
        await super().shutdown(sockets)
        draining.cancel()
        cut.cancel()

    def _cut(self) -> None:
        """Close what clients do not take."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()
