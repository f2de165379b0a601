"""uvicorn's server as this one runs it: bounded connections, and an end that answers everybody."""

import asyncio
import contextlib
import functools
import gc
import logging
import os
import shlex
import signal
import socket
import time
from collections.abc import Iterator
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.engine.client import EngineClient
from app.engine.errors import EngineUnavailable
from app.engine.model_info import ModelInfo
from app.http import logs
from app.http.crowd import Bounds, Crowd, most_connections
from app.jobs.service import JobService
from app.serving.connection import Connection
from app.serving.listening import listen, url_of
from app.settings import Settings

log = logging.getLogger(__name__)

_ANSWERS_SECONDS = 1.0  # for the answers to requests that the end of the drain fails
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """Ends by a signal with status 0; by a second one, at once.

    It listens from the beginning: requests that come while the models load wait for them.

    Raises:
        CannotListen: not at this address and port.
    """

    def __init__(self, app: FastAPI, settings: Settings, engine: EngineClient) -> None:
        self._began = time.monotonic()
        self._listening = listen(settings.host, settings.port)
        self._url = url_of(settings.host, self._listening)
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
                http=functools.partial(Connection, crowd=Crowd(bounds)),  # type: ignore[arg-type]
                ws="none",
                log_config=logs.config(settings.log_format),
                access_log=False,
                timeout_keep_alive=settings.keep_alive_seconds,
                proxy_headers=False,  # app/http/proxies.py
            )
        )
        self._engine, self._drain = engine, float(settings.drain_seconds)
        self._jobs: JobService = app.state.jobs

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes."""
        super().run(sockets or self._listening)

    async def main_loop(self) -> None:
        """As uvicorn's, and say when the models are there."""
        gc.freeze()  # what is there by now stays, so garbage collection need not search it
        ready = asyncio.create_task(self._tell_when_ready())
        await super().main_loop()
        ready.cancel()

    async def _tell_when_ready(self) -> None:
        log.info("%s answers; loading %s", self._url, ", ".join(self._engine.wanted))
        with contextlib.suppress(EngineUnavailable):  # the log says why
            await self._engine.loaded()
            log.info("ready in %.0f s: %s", time.monotonic() - self._began, self._url)
            log.info("try: %s", _example(self._url, next(iter(self._engine.models.values()))))

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
        """Drain; at the second signal, end at once."""
        if self.should_exit:
            self._engine.fleet.crew.kill()  # one may hang, and would stay
            os._exit(128 + sig)
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish the requests that can be done in time, and refuse the others."""
        loop = asyncio.get_running_loop()
        self._jobs.drain(self._drain)
        self._jobs.hub.close()
        draining = loop.create_task(self._engine.drain(self._drain))
        cut = loop.call_later(self._drain + _ANSWERS_SECONDS, self._cut)
        await super().shutdown(sockets)
        draining.cancel()
        cut.cancel()

    def _cut(self) -> None:
        """Close connections whose clients do not read their answers."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _example(url: str, info: ModelInfo) -> str:
    """An example of a command that draws with a model."""
    asked = f" -d class={shlex.quote(info.classes.names[0])}" if info.classes.names else ""
    asked = " -d prompt='a photo of a cat'" if info.prompts else asked
    return f"curl -f {url}/generate{asked} -d seed=1 -o picture.png"
