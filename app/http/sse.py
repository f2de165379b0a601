"""Server-sent events: how they are written, and a response that ends what it streams."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Self

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

MEDIA_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
# no-transform and X-Accel-Buffering: proxies that compress or collect would hold events back.
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


def event(name: str, data: BaseModel) -> bytes:
    """One event, its data JSON."""
    return format_sse_event(event=name, data_str=data.model_dump_json(by_alias=True))


class EventStream(StreamingResponse):
    """Events as they come. However it ends, the generator behind it is closed at once."""

    media_type = MEDIA_TYPE

    def __init__(
        self, first: bytes, events: AsyncGenerator[bytes, None], headers: dict[str, str]
    ) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield first
            async for chunk in events:
                yield chunk

        super().__init__(chunks(), headers=headers | HEADERS)
        self._events = events

    @classmethod
    async def begin(
        cls, events: AsyncGenerator[bytes, None], headers: dict[str, str] | None = None
    ) -> Self:
        """Wait for the first event: what cannot begin raises here, and is no stream."""
        return cls(await anext(events), events, headers or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._events):
            await super().__call__(scope, receive, send)
