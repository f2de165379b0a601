"""What a job is to the engine, packed as it is stored: everything that fixes the result's bytes.

And what is told of the result besides, which only the model knows.
"""

import msgspec

from app.engine.job import Request
from app.files.ids import id_of


class Work(msgspec.Struct, frozen=True):
    """A request whose seed and defaults are resolved, and how its files are made.

    `timeout` of the request counts from when the job was accepted; None: it has no deadline.
    The last two are told of a result also when its model is not loaded.
    """

    request: Request
    media_type: str
    quality: int | None  # of a JPEG or WebP
    marked: bool  # files say how they were made
    class_name: str | None = None  # None: no class
    own_size: bool | None = None  # of the model; None where an earlier version packed neither

    def pack(self) -> bytes:
        """As bytes."""
        return msgspec.msgpack.encode(self)

    def image_id(self, image: int, digest: str) -> str | None:
        """The id of image 0..n-1 by the checkpoint with this digest; None if it cannot be said."""
        if self.own_size is None:
            return None
        return id_of(self.request.params, image, digest, own_size=self.own_size)


_decoder = msgspec.msgpack.Decoder(Work)


def unpack(packed: bytes) -> Work:
    """What `Work.pack` packed; raises `msgspec.MsgspecError` where it is something else."""
    return _decoder.decode(packed)


def work_of(packed: bytes) -> Work | None:
    """What `Work.pack` packed; None where another version of the server did."""
    try:
        return unpack(packed)
    except msgspec.MsgspecError:
        return None


def request_of(packed: bytes) -> Request | None:
    """The request in what `Work.pack` packed; None where another version of the server did."""
    work = work_of(packed)
    return work.request if work else None
