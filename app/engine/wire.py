"""What the server and a worker say to each other, and how: MessagePack with a length before it.

Messages are typed and checked as they are read; nothing that a peer sends is ever executed.
"""

import asyncio
import socket
import struct

import msgspec

from app.engine.costs import Costs
from app.engine.job import Request
from app.engine.lines import LogFormat
from app.engine.model_info import LaneId, ModelInfo
from app.engine.results import Pixels, Preview
from models.conditioning import NOTHING_CUT, Cut
from models.sampling import Prediction

_LENGTH = struct.Struct("!I")
_LONGEST = 1 << 30  # bytes of a message; sixteen images of 4096 x 4096 have 3/4 of it


class Message(msgspec.Struct, frozen=True, tag=True):
    """One thing said."""


# To the worker.


class Load(Message, frozen=True):
    """Open these models, name -> folder. The first command.

    A worker of the server is told one. `turnstile` is the file descriptor of what it shares with
    the other workers of its device (turnstile.py); without one it is alone.

    One client alone has at most `slots` images in flight per model (shares.py); by the device if
    None. `rows` bounds those of the network per tick; if None, the bound is measured.
    `dtype` is one of PyTorch's, or tf32. `prediction` is what the UNets of single files predict;
    told from each file if None. Each model has at most `sizes` lanes, its own among them.
    `log_format` is that of the worker's log.
    """

    models: dict[str, str]
    device: str
    dtype: str
    backend: str
    compile: bool
    slots: int | None
    rows: int | None
    sizes: int = 4
    prediction: Prediction | None = None
    turnstile: int | None = None
    log_format: LogFormat = "text"


class Submit(Message, frozen=True):
    """Take this request; one `Done`, `Failed` or `Cancelled` will answer it."""

    job_id: int
    request: Request


class Cancel(Message, frozen=True):
    """End this request, wherever it is; unknown ids are ignored."""

    job_id: int


class Stop(Message, frozen=True):
    """End."""


# From the worker.


class Loading(Message, frozen=True):
    """This model, or a lane of it, is opened: said as that begins, and as a sign of life.

    `waiting` is true while it is fetched, which may take as long as a slow line needs, and while
    another worker of the device loads.
    """

    model: str
    waiting: bool = False


class LeftOut(Message, frozen=True):
    """A model did not load; the others are still loaded. The worker ends if none loads."""

    model: str
    reason: str


class Ready(Message, frozen=True):
    """These models are loaded and warm, at least one; the others were `LeftOut`."""

    models: tuple[ModelInfo, ...]


class Admitted(Message, frozen=True):
    """These requests run from the next tick on; sent before it begins."""

    job_ids: tuple[int, ...]


class Done(Message, frozen=True):
    """A request's images, in order; `decoding` took so many seconds after the last step.

    `cut` is the number of tokens that did not fit, of the prompt and of the negative one.
    """

    job_id: int
    images: tuple[Pixels, ...]
    decoding: float
    cut: Cut = NOTHING_CUT


class Shown(Message, frozen=True):
    """The previews of a request before it ends, in step order."""

    job_id: int
    previews: list[Preview]


class Failed(Message, frozen=True):
    """A request that will have no images."""

    job_id: int
    reason: str


class Cancelled(Message, frozen=True):
    """A request was ended on demand, `ticks` after the demand came."""

    job_id: int
    ticks: int


class LaneProgress(msgspec.Struct, frozen=True):
    """What one lane did since the last report.

    `seconds` is the time in which it had work, `expected` what its ticks should have taken by the
    costs that are known. `running` counts slots that are taken. `costs` is None where the last that
    were told still hold.
    """

    lane: LaneId
    ticks: int
    rows: int
    padding: int
    seconds: float
    expected: float
    running: int
    costs: Costs | None


class Progress(Message, frozen=True):
    """What was done since the last report; sent a few times per second while there is work.

    `seconds` is the time since then, in which there was work and the device was this worker's.
    `lanes` holds those that there are.
    `evaluations` holds, for every request in flight, those that its images have had together.
    `previews` holds new previews by request, in order.
    """

    seconds: float
    lanes: tuple[LaneProgress, ...]
    evaluations: dict[int, int]
    previews: dict[int, list[Preview]]


Command = Load | Submit | Cancel | Stop
Event = Loading | LeftOut | Ready | Admitted | Shown | Done | Failed | Cancelled | Progress

_encode = msgspec.msgpack.Encoder().encode
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_events: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


def pack(message: Message) -> bytes:
    """A message as it goes over the wire."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


async def read_event(stream: asyncio.StreamReader) -> Event | None:
    """The worker's next event; None when it is gone. Raises `MsgspecError` where it is none."""
    try:
        length = _length(await stream.readexactly(_LENGTH.size))
        return _events.decode(await stream.readexactly(length))
    except (asyncio.IncompleteReadError, OSError):
        return None


def read_command(connection: socket.socket) -> Command | None:
    """Wait for the server's next command; None when it is gone. Raises as `read_event`."""
    head = _read(connection, _LENGTH.size)
    body = None if head is None else _read(connection, _length(head))
    return None if body is None else _commands.decode(body)


def _length(head: bytes) -> int:
    """The length of a message, from its first bytes."""
    length: int = _LENGTH.unpack(head)[0]
    if length > _LONGEST:
        raise msgspec.DecodeError(f"a message of {length} bytes")
    return length


def _read(connection: socket.socket, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        try:
            part = connection.recv(size - len(parts))
        except OSError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)
