"""Answers that are recorded while they are sent, in as much memory as there is for them."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Bytes of answers, at most: of one client, and of all."""

    client: int = 1 << 26
    all: int = 1 << 28

    @property
    def largest(self) -> int:
        """Bytes of one answer, at most."""
        return min(self.client, self.all)


class Recorder:
    """Counts what is recorded at the same time. One event loop uses it."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self.held: Counter[str] = Counter()  # bytes, by client

    @contextlib.contextmanager
    def recording(self, owner: str) -> Iterator["Recording"]:
        """A recording for a client, whose memory is free again afterwards."""
        recording = Recording(self, owner)
        try:
            yield recording
        finally:
            recording.give_up()

    def fits(self, owner: str, size: int) -> bool:
        """Whether there is room for so many more bytes."""
        own, whole = self.held[owner] + size, self.held.total() + size
        return own <= self._sizes.client and whole <= self._sizes.all


class Recording:
    """The parts of one answer; nothing once there was no room for one of them."""

    def __init__(self, recorder: Recorder, owner: str) -> None:
        self._recorder, self._owner = recorder, owner
        self._parts: list[bytes] | None = []

    @property
    def body(self) -> bytes | None:
        """All of it; None if there was no room for it."""
        return None if self._parts is None else b"".join(self._parts)

    def add(self, part: bytes) -> None:
        """Record one more part."""
        if self._parts is None:
            return
        if self._recorder.fits(self._owner, len(part)):
            self._parts.append(part)
            self._recorder.held[self._owner] += len(part)
        else:
            self.give_up()

    def give_up(self) -> None:
        """Forget all parts."""
        held = self._recorder.held
        held[self._owner] -= sum(map(len, self._parts or ()))
        if not held[self._owner]:
            del held[self._owner]
        self._parts = None
