"""Messages come through as they were, and what is none of ours is refused."""

import asyncio
import dataclasses
import socket

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import wire
from app.engine.job import Request
from app.engine.model_info import LaneId
from app.engine.results import Pixels, Preview
from models.conditioning import Condition, Prompt
from tests.fakes import INFO, LOAD, TEXT, drawn

PROMPT = Condition(prompt=Prompt("a cat \N{GRINNING FACE}\n", "blurry", 1))
PREVIEW = Preview(15, 7, 20, Pixels(1, 1, 1, b"\x07"))
LANE = wire.LaneProgress(LaneId("m", 16, 32), 3, 64, 2, 0.5, 0.4, 12, INFO.costs)
OTHER = wire.LaneProgress(LaneId("n", 8, 8), 0, 0, 0, 0.0, 0.0, 0, None)
MESSAGES: list[wire.Command | wire.Event] = [
    LOAD,
    wire.Submit(1, Request(drawn("m", None, 1000, 7.5, (0.25, 1.0), 0.5, 2**63 - 1, 16), -10, 3)),
    wire.Submit(
        2, Request(dataclasses.replace(drawn("m", None, 1, 1, (0, 1), 0, 1, 1), condition=PROMPT))
    ),
    wire.Cancel(2**40),
    wire.Stop(),
    wire.Loading("digits"),
    wire.LeftOut("digits", "no such file: \N{SNOWMAN}"),
    wire.Ready((INFO, TEXT)),
    wire.Admitted((1, 2, 3)),
    wire.Done(1, (Pixels(2, 1, 3, b"\x00\xff" * 3), Pixels(1, 1, 1, b"\x07")), 0.25, (3, 0)),
    wire.Shown(7, [PREVIEW]),
    wire.Failed(1, "out of memory"),
    wire.Cancelled(1, 1),
    wire.Progress(0.5, (LANE, OTHER), {1: 20, 7: 0}, {7: [PREVIEW]}),
]


def read_as_command(data: bytes) -> wire.Command | None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        return wire.read_command(theirs)


def read_as_event(data: bytes) -> wire.Event | None:
    async def read() -> wire.Event | None:
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        return await wire.read_event(stream)

    return asyncio.run(read())


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_through_as_it_was(message: wire.Message) -> None:
    read = read_as_command if isinstance(message, wire.Command) else read_as_event
    assert read(wire.pack(message)) == message


def test_every_message_is_tried() -> None:
    kinds = {*wire.Command.__args__, *wire.Event.__args__}  # type: ignore[attr-defined]
    assert kinds == {type(message) for message in MESSAGES}


@given(st.integers(0, 40))
def test_a_message_cut_short_is_the_end(length: int) -> None:
    data = wire.pack(MESSAGES[1])[:length]
    assert read_as_command(data) is None
    assert read_as_event(data) is None


@pytest.mark.parametrize(
    "body",
    [
        {"type": "Eval", "code": "print(1)"},
        {"type": "Cancel", "job_id": "one"},
        {"type": "Done", "job_id": 1, "images": []},  # an event, and no command
        ["Cancel", 1],
    ],
)
def test_what_is_no_command_of_ours_is_refused(body: object) -> None:
    data = msgspec.msgpack.encode(body)
    with pytest.raises(msgspec.ValidationError):
        read_as_command(len(data).to_bytes(4, "big") + data)


@pytest.mark.parametrize("data", [b"\0\0\0\1\xc1", b"\xff\xff\xff\xff", b"GET / HTTP/1.1"])
def test_what_is_no_message_at_all_is_refused_before_it_is_waited_for(data: bytes) -> None:
    """No MessagePack; a length of 4 GiB; one of 1.2."""
    for read in (read_as_command, read_as_event):
        with pytest.raises(msgspec.DecodeError):
            read(data)
