"""A client's leaving cancels what serves it, whatever that is; and does nothing else."""

import asyncio
import logging
import re
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.http import logs
from app.http.middleware import CancelOnDisconnect, RequestId


class Connection:
    """One request as a server would hand it over; `leave` is the client's hanging up."""

    def __init__(self, method: str = "POST", *body: bytes) -> None:
        self.scope: Scope = {"type": "http", "method": method, "headers": []}
        self._waiting: asyncio.Queue[Message] = asyncio.Queue()
        for part in body:
            self._waiting.put_nowait({"type": "http.request", "body": part, "more_body": True})
        self._waiting.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        self.sent: list[Message] = []

    def leave(self) -> None:
        self._waiting.put_nowait({"type": "http.disconnect"})

    async def receive(self) -> Message:
        return await self._waiting.get()

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self.leave()  # as servers do once an answer is complete

    async def served_by(self, app: Any) -> None:
        await app(self.scope, self.receive, self.send)


async def read(receive: Receive) -> bytes:
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    return body


async def respond(send: Send, *parts: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_leaving_cancels_the_handler(method: str) -> None:
    ended = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        if method == "POST":
            assert await read(receive) == b"hello"
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(True)

    async def test() -> None:
        connection = Connection(method, b"hello")
        serving = asyncio.create_task(connection.served_by(CancelOnDisconnect(app)))
        await asyncio.sleep(0.01)
        assert not serving.done()
        connection.leave()
        await serving  # it returns: nobody is left to be told
        assert ended
        assert not connection.sent

    asyncio.run(asyncio.wait_for(test(), 10))


def test_leaving_in_the_middle_of_a_stream_cancels_it() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(60)

    async def test() -> None:
        connection = Connection()
        serving = asyncio.create_task(connection.served_by(CancelOnDisconnect(app)))
        await asyncio.sleep(0.01)
        connection.leave()
        await serving
        assert len(connection.sent) == 2

    asyncio.run(asyncio.wait_for(test(), 10))


def test_an_answer_that_is_complete_is_left_alone() -> None:
    """What a handler does after its answer is not cancelled by the end of the connection."""
    after = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await respond(send, b"x")
        await asyncio.sleep(0.01)
        after.append((await receive())["type"])

    async def test() -> None:
        await Connection().served_by(CancelOnDisconnect(app))

    asyncio.run(asyncio.wait_for(test(), 10))
    assert after == ["http.disconnect"]


def test_a_cancel_from_elsewhere_is_no_clients_leaving() -> None:
    async def app(_: Scope, receive: Receive, send: Send) -> None:
        await read(receive)
        await asyncio.sleep(60)

    async def test() -> None:
        serving = asyncio.create_task(Connection().served_by(CancelOnDisconnect(app)))
        await asyncio.sleep(0.01)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(asyncio.wait_for(test(), 10))


def test_leaving_before_the_body_is_there_cancels_the_handler_too() -> None:
    seen = []

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        try:
            seen.append((await receive())["type"])
            seen.append((await receive())["type"])
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    async def test() -> None:
        connection = Connection()
        connection._waiting = asyncio.Queue()
        connection._waiting.put_nowait({"type": "http.request", "body": b"x", "more_body": True})
        connection.leave()
        await connection.served_by(CancelOnDisconnect(app))

    asyncio.run(asyncio.wait_for(test(), 10))
    assert seen == ["http.request", "cancelled"]


def test_the_log_names_the_request(caplog: pytest.LogCaptureFixture) -> None:
    """And nothing that a client made up, but for a plain id of its own."""
    log, handler = logging.getLogger("app.test"), caplog.handler

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        log.warning("something about %s", scope["state"]["request_id"])

    async def test(given: bytes) -> str:
        connection = Connection()
        connection.scope["headers"] = [(b"x-request-id", given)]
        await connection.served_by(RequestId(app))
        return caplog.records[-1].__dict__["request"] + caplog.records[-1].getMessage()

    handler.addFilter(named := logs.WithRequest())
    try:
        assert asyncio.run(test(b"mine-1")) == "[mine-1] something about mine-1"
        told = asyncio.run(test(b"two\nlines"))
        assert re.fullmatch(r"\[(\w{32})\] something about \1", told)
    finally:
        handler.removeFilter(named)


def test_other_protocols_pass() -> None:
    seen = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def test() -> None:
        connection = Connection()
        connection.scope = {"type": "lifespan"}
        await connection.served_by(CancelOnDisconnect(app))
        await connection.served_by(RequestId(app))

    asyncio.run(asyncio.wait_for(test(), 10))
    assert seen == ["lifespan"] * 2
