"""A transport that sends together what is written together."""

import asyncio
from typing import Any

_MOST = 1 << 16  # bytes kept back


class Outgoing:
    """A transport, except that what is written in one round of the event loop is sent in one piece.

    Each piece is a system call and wakes whoever reads it, which takes longer than to make a small
    message.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport, self._loop = transport, asyncio.get_running_loop()
        self._kept = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send it soon."""
        if not self._kept:
            self._loop.call_soon(self._flush)
        self._kept += data
        if len(self._kept) > _MOST:
            self._flush()

    def write_eof(self) -> None:
        """Send nothing after what was written."""
        self._flush()
        self._transport.write_eof()

    def close(self) -> None:
        """Close, once what was written is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        kept, self._kept = self._kept, bytearray()
        if kept and not self._transport.is_closing():
            self._transport.write(kept)
