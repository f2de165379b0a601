"""What is written together is sent together, in order, and before the end."""

import asyncio
from typing import Any

from app.engine.outgoing import Outgoing
from tests.engine import asynchronous


class Transport:
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def write(self, data: bytes) -> None:
        self.told.append(bytes(data))

    def write_eof(self) -> None:
        self.told.append("eof")

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return "close" in self.told

    def get_extra_info(self, name: str) -> str:
        return name


def pair() -> tuple[Outgoing, Transport]:
    transport = Transport()
    return Outgoing(transport), transport  # type: ignore[arg-type]


@asynchronous
async def test_what_is_written_in_one_round_is_sent_once_and_the_next_apart() -> None:
    outgoing, transport = pair()
    for part in (b"head ", b"and ", b"body"):
        outgoing.write(part)
    assert transport.told == []
    await asyncio.sleep(0)
    assert transport.told == [b"head and body"]
    outgoing.write(b"more")
    await asyncio.sleep(0)
    assert transport.told == [b"head and body", b"more"]


@asynchronous
async def test_nothing_that_was_written_is_lost_at_the_end() -> None:
    for end, name in ((Outgoing.close, "close"), (Outgoing.write_eof, "eof")):
        outgoing, transport = pair()
        outgoing.write(b"last words")
        end(outgoing)
        assert transport.told == [b"last words", name]
        await asyncio.sleep(0)
        assert transport.told == [b"last words", name]


@asynchronous
async def test_what_comes_after_the_end_is_dropped() -> None:
    outgoing, transport = pair()
    outgoing.close()
    outgoing.write(b"too late")
    await asyncio.sleep(0)
    assert transport.told == ["close"]


@asynchronous
async def test_much_is_not_kept_back() -> None:
    """Who writes without end is told by the transport that its buffer is full."""
    outgoing, transport = pair()
    for _ in range(100):
        outgoing.write(bytes(1 << 14))
    assert len(b"".join(transport.told)) > 99 * (1 << 14) - (1 << 17)
    await asyncio.sleep(0)
    assert len(b"".join(transport.told)) == 100 << 14


@asynchronous
async def test_otherwise_it_is_the_transport() -> None:
    outgoing, _ = pair()
    assert outgoing.get_extra_info("peername") == "peername"
    assert not outgoing.is_closing()
