"""Open event streams: how many there may be, of one client and in all."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from app.engine.shares import Shares
from app.errors import LimitExceeded

_SOON = 5  # seconds after which a stream may have ended


class Streams:
    """Counts open streams. Shares are divided as those of the engine are (engine/shares.py)."""

    def __init__(self, alone: int) -> None:
        self.alone = alone  # streams of one client, where no other has any
        self.shares = Shares(alone)

    async def hold(
        self, client: str, events: AsyncGenerator[bytes, None]
    ) -> AsyncGenerator[bytes, None]:
        """The same events, counted as a stream until this generator ends or is closed.

        Raises:
            LimitExceeded: before the first event, where the client has too many.
        """
        async with aclosing(events):
            if not self.shares.fits(client):
                told = f"{self.shares.held(client)} event streams of this client are open"
                allowed = f"allowed: {self.alone}, or what other clients leave"
                raise LimitExceeded(f"{told}; {allowed} (DARKROOM_MAX_STREAMS)", _SOON)
            self.shares.take(client)
            try:
                async for event in events:
                    yield event
            finally:
                self.shares.take(client, -1)
