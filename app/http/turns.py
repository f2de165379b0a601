"""Clients take turns at the event loop.

Most requests are answered, or refused, in one go of a millisecond. A client with hundreds of
requests ready at once would make all others wait. A client that asks again at once, for what costs
no device or is refused, would keep the processor busy with nothing else.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.crowd import client_of

_A_ROUND = 4  # requests begun each time around the event loop: a few milliseconds
_REFUSALS = 100  # a second, of one client, and as many at once
_READS = 500  # answers to GET and its like; how much may be drawn is limited in other ways
_MOST_CLIENTS = 4096  # clients whose answers are counted


def network_of(scope: Scope) -> str:
    """The client of a request by its address; empty where it has none."""
    return client_of(scope["client"][0]) if scope.get("client") else ""


class Turns:
    """Lets a few pass each time around the event loop, one of each client, then the next of each.

    If fewer come, nobody waits.
    """

    def __init__(self) -> None:
        self._left = _A_ROUND
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    async def take(self, client: str) -> None:
        """Return when it is this client's turn."""
        loop = asyncio.get_running_loop()
        if self._left == _A_ROUND:
            loop.call_soon(self._next_round)
        if self._left:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.setdefault(client, deque()).append(turn)
        await turn

    def _next_round(self) -> None:
        self._left = _A_ROUND
        while self._left and self._waiting:
            client = next(iter(self._waiting))
            turns = self._waiting.pop(client)
            turn = turns.popleft()
            if turns:
                self._waiting[client] = turns  # after all others
            if not turn.done():  # its client may have left
                turn.set_result(None)
                self._left -= 1
        if self._left < _A_ROUND:
            asyncio.get_running_loop().call_soon(self._next_round)


class Pace:
    """When a client may have its next answer: some at once, then so many a second.

    The generic cell rate algorithm (ITU-T I.371, annex A).
    """

    def __init__(self, rate: int) -> None:
        """`rate` is the number of answers per second, and of those at once."""
        self._rate = rate
        self._due: dict[str, float] = {}  # when the next would be due, were they evenly spaced

    def delay(self, client: str, now: float) -> float:
        """Seconds to wait with this one."""
        if len(self._due) > _MOST_CLIENTS:
            self._due = {client: due for client, due in self._due.items() if due > now}
        due = max(self._due.get(client, now), now)
        self._due[client] = due + 1 / self._rate
        return max(due - now - 1, 0.0)


class TakeTurns:
    """Begin requests in turn, and answer no faster than is bearable for the others."""

    def __init__(self, app: ASGIApp, client: Callable[[Scope], str] = network_of) -> None:
        """`client` names who asks."""
        self._app, self._client = app, client
        self._turns, self._refusals, self._reads = Turns(), Pace(_REFUSALS), Pace(_READS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request when it is its client's turn."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = self._client(scope)
        await self._turns.take(client)

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                refused, read = message["status"] >= 400, scope["method"] != "POST"
                pace = self._refusals if refused else self._reads if read else None
                if pace and (delay := pace.delay(client, time.monotonic())):
                    await asyncio.sleep(delay)
            await send(message)

        await self._app(scope, receive, sent)
