"""One reader of a stream: what it has not been told, by name, and how far it got in the ends."""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Self

from app.errors import UnknownEventId

_TEXT = re.compile(r"(\d{1,18})-(\d{1,12})", re.ASCII)
# Of one piece of a stream. What waits behind it is chosen anew when the reader has taken it, so the
# newest goes first, and previews never keep states from going.
_STATES, _PREVIEWS = 1 << 13, 1 << 14  # bytes


class Cursor(NamedTuple):
    """How far a reader got: the number of the last end that it was told, and when that was."""

    number: int
    seconds: int  # since 1970

    @classmethod
    def now(cls, number: int) -> Self:
        """What a reader has that is told everything up to a number now."""
        return cls(number, int(time.time()))

    @classmethod
    def parse(cls, text: str) -> Self:
        """An id of an event; raises `UnknownEventId`."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise UnknownEventId(
                f"Last-Event-ID {text[:40]!r} is not of this stream; allowed: the id of an event "
                "of it, or none"
            )
        return cls(int(found[1]), int(found[2]))

    @property
    def age(self) -> float:
        """Seconds since then."""
        return time.time() - self.seconds

    def __str__(self) -> str:
        return f"{self.number}-{self.seconds}"


class Key(NamedTuple):
    """What can be told of a job: its state, or the preview of an image."""

    job: str
    image: int | None = None

    @property
    def is_preview(self) -> bool:
        """Whether it is a preview."""
        return self.image is not None


class Follower:
    """A reader. It holds names of events, never events: at most one state and one preview each."""

    def __init__(self, jobs: Collection[str] = ()) -> None:
        self.number = 0  # of the last end that it was told
        self.ends = False  # whether there may be more of them
        self._jobs = frozenset(jobs)  # all if none are named
        self._untold: dict[Key, int] = {}  # and the number of the job
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._untold)

    @property
    def cursor(self) -> Cursor:
        """How far it got by now."""
        return Cursor.now(self.number)

    def follows(self, job: str) -> bool:
        """Whether it wants to know of a job."""
        return not self._jobs or job in self._jobs

    def note(self, key: Key, number: int) -> bool:
        """Remember to tell of something; whether it was to be told of an older one still."""
        if not self.follows(key.job):
            return False
        behind = key in self._untold
        self._untold[key] = number
        self._woken.set()
        return behind

    def look(self) -> None:
        """Remember to look for ends."""
        self.ends = True
        self._woken.set()

    async def wait(self, seconds: float) -> bool:
        """Return when there is something to tell, or after so long; whether there is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        woken = self._woken.is_set()
        self._woken.clear()
        return woken

    def take(self, render: Callable[[Key], bytes]) -> bytes:
        """One piece of what is untold: of the newest jobs first, states before previews."""
        states = [key for key in self._untold if not key.is_preview]
        previews = [key for key in self._untold if key.is_preview]
        return self._some(states, _STATES, render) + self._some(previews, _PREVIEWS, render)

    def _some(self, keys: Iterable[Key], most: int, render: Callable[[Key], bytes]) -> bytes:
        """At least one, and no more once there are so many bytes."""
        piece = bytearray()
        for key in sorted(keys, key=lambda key: (-self._untold[key], key)):
            if len(piece) >= most:
                break
            del self._untold[key]
            piece += render(key)
        return bytes(piece)
