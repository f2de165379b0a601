"""What a job is to the engine, packed as it is stored: everything that fixes the result's bytes."""

import msgspec

from app.engine.job import Request


class Work(msgspec.Struct, frozen=True):
    """A request whose seed and defaults are resolved, and how its files are made.

    `timeout` of the request counts from when the job was accepted; None: it has no deadline.
    """

    request: Request
    media_type: str
    quality: int | None  # of a JPEG or WebP
    marked: bool  # files say how they were made

    def pack(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)


_decoder = msgspec.msgpack.Decoder(Work)


def unpack(packed: bytes) -> Work:
    """What `Work.pack` packed; raises `msgspec.MsgspecError` where it is something else."""
    return _decoder.decode(packed)


def request_of(packed: bytes) -> Request | None:
    """The request that `Work.pack` packed; None where another version of the server did."""
    try:
        return unpack(packed).request
    except msgspec.MsgspecError:
        return None
