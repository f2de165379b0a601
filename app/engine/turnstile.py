"""Whose turn it is on a device that the workers of several models share. Standard library only.

The rule is that of turns.py: whoever has had least seconds of the device goes next, and goes on
while it is less than 15 ms ahead. What workers know of each other is in a file in memory that all
of them map. Who has the turn holds a lock on one byte of it, which the kernel takes back from a
process that ends, however it ends ("Open file description locks", fcntl(2)). While nobody else
wants the device, the turn is kept, and keeping it is a matter of memory alone.
"""

import contextlib
import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

from app.engine.turns import AHEAD

Turn = Callable[[], AbstractContextManager[object]]  # the device, as long as the context lasts

_SEATS = 256  # workers at once
_WANTS = b"\1"  # by seat, one byte each, at the beginning of the file; 0 for who has the turn
# What follows in the file, as float64: the virtual time of the device; when whoever has the turn
# should have looked again; how often a turn was taken away; then by seat, the seconds of the device
# that it has had, and when it asked last. Times are CLOCK_MONOTONIC, which processes share.
_CLOCK, _UNTIL, _ROUND = range(_SEATS // 8, _SEATS // 8 + 3)
_HAD = _ROUND + 1
_ASKED = _HAD + _SEATS
_SIZE = 8 * (_ASKED + _SEATS)
_LOADING, _SEAT, _TURN = 1 << 20, 1 << 21, 1 << 22  # bytes that are locked, far behind its end
_LOCK = struct.Struct("hhqqi0q")  # struct flock of 64-bit Linux

_SOON, _LATE = 0.0005, 0.05  # seconds between two looks of who waits, the least and the most
_LOOKS = 32  # in the time waited so far: 3% of a turn are lost at its end
_GONE = 0.5  # seconds; who has not looked for so long, does not want the device any more
_POLITE = 8  # the part of the time waited in which those may pass who have had less
_PATIENCE, _TICKS = 5.0, 20  # seconds, and ticks, after which a turn is taken away
_MEASURED = 30.0  # the same for what is timed, in seconds


def shared() -> int:
    """A descriptor of a new file, for the workers of one device."""
    file = os.memfd_create("darkroom-turns")
    os.ftruncate(file, _SIZE)
    return file


class Turnstile:
    """One worker's place, for as long as it lives."""

    def __init__(self, file: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a place in this file; where it is None, the worker is alone.

        Raises:
            RuntimeError: there are as many workers as there are places.
        """
        own = shared() if file is None else file
        # Opened anew: such locks belong to what was opened, and not to the process.
        self._file = os.open(f"/proc/self/fd/{own}", os.O_RDWR | os.O_CLOEXEC)
        if file is None:
            os.close(own)
        self._map, self._clock = mmap.mmap(self._file, _SIZE), clock
        self._times = memoryview(self._map).cast("d")
        free = (seat for seat in range(_SEATS) if self._lock(_SEAT + seat))
        self._seat = next(free, _SEATS)
        if self._seat == _SEATS:
            raise RuntimeError(f"more than {_SEATS} workers share a device")
        self._map[self._seat] = 0
        self._times[_HAD + self._seat] = self._times[_CLOCK]
        self._holds: int | None = None  # the round whose byte is locked
        self._since = 0.0  # until when the seconds are counted
        self._asking: float | None = None  # since when it waits
        self._polite: float | None = None  # since when it lets others pass
        self._waited = 0.0
        self.again = 0.0  # when to ask again

    @property
    def held(self) -> bool:
        """Whether it has the turn: it took it, and nobody lost patience with it."""
        return self._holds is not None and self._holds == self._times[_ROUND]

    @property
    def wanted(self) -> bool:
        """Whether another worker waits."""
        return bool(self._waiting())

    @property
    def due(self) -> bool:
        """Whether another worker should have the device before this one goes on."""
        had, least = self._count(), self._least()
        self._times[_CLOCK] = min(had, least)
        return had > least + AHEAD

    @property
    def waited(self) -> float:
        """Seconds that it has waited, all in all."""
        return self._waited + (self._clock() - self._asking if self._asking is not None else 0.0)

    def take(self, tick: float = 0.0) -> bool:
        """Whether it has the turn, to make ticks that should take so many seconds each.

        If not, it waits from now on, and has to ask at `again` or soon after.
        """
        return self._take(max(_PATIENCE, _TICKS * tick))

    def give(self) -> None:
        """Let others have the device, on which this worker has nothing under way."""
        if self.held:
            self._times[_CLOCK] = min(self._count(), self._least())
        self._drop()
        self._ask_no_more()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Have the device alone, for something that is timed; waits for it."""
        while not self._take(_MEASURED):
            time.sleep(max(self.again - self._clock(), 0.0))
        try:
            yield
        finally:
            self.give()

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """Load a model while no other worker does; waits for that.

        How much memory is free is looked up before it is taken.
        """
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLKW, _range(fcntl.F_WRLCK, _LOADING))
        try:
            yield
        finally:
            self._unlock(_LOADING)

    def leave(self) -> None:
        """Let go of everything, as the kernel does for a process that ends."""
        with contextlib.suppress(OSError, ValueError):  # it is closed
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _range(fcntl.F_UNLCK, 0, 0))

    def close(self) -> None:
        """Leave for good."""
        self._ask_no_more()
        self._times.release()
        self._map.close()
        os.close(self._file)
        self._file = -1

    def _take(self, patience: float) -> bool:
        now = self._clock()
        if not (self.held or self._get(now)):
            pause = (now - self._asking) / _LOOKS if self._asking is not None else 0.0
            self.again = now + min(max(pause, _SOON), _LATE)
            return False
        self._times[_UNTIL] = now + patience
        return True

    def _get(self, now: float) -> bool:
        """Get the turn, if nobody has it, and nobody who waits should come first."""
        times, own = self._times, _HAD + self._seat
        self._drop()  # it may have been taken away
        if self._asking is None:  # what was idle has saved nothing up
            self._asking = now
            times[own] = max(times[own], times[_CLOCK])
        times[_ASKED + self._seat] = now
        self._map[self._seat : self._seat + 1] = _WANTS
        current = int(times[_ROUND])
        if not self._lock(_TURN + current):
            if now > times[_UNTIL]:  # its holder hangs
                times[_ROUND] = current + 1.0
            return False
        if self._least() < times[own]:
            self._polite = now if self._polite is None else self._polite
            if now - self._polite < max((now - self._asking) / _POLITE, 4 * _SOON):
                self._unlock(_TURN + current)
                return False
        self._holds, self._since = current, now
        times[_UNTIL] = now + _PATIENCE
        self._ask_no_more()
        return True

    def _count(self) -> float:
        """Count the seconds since the last call, if it has the turn; all that it has had."""
        own = _HAD + self._seat
        if self._holds is not None:
            now = self._clock()
            self._times[own] += now - self._since
            self._since = now
        return self._times[own]

    def _least(self) -> float:
        """What those who wait have had, the least; infinite if nobody waits."""
        return min((self._times[_HAD + seat] for seat in self._waiting()), default=float("inf"))

    def _waiting(self) -> Sequence[int]:
        """The seats of the others that wait, and have looked of late."""
        found, seat = [], self._map.find(_WANTS, 0, _SEATS)
        while seat >= 0:
            if seat != self._seat and self._clock() - self._times[_ASKED + seat] < _GONE:
                found.append(seat)
            seat = self._map.find(_WANTS, seat + 1, _SEATS)
        return found

    def _ask_no_more(self) -> None:
        if self._asking is not None:
            self._waited += self._clock() - self._asking
            self._asking = self._polite = None
            self._map[self._seat] = 0

    def _drop(self) -> None:
        if self._holds is not None:
            self._unlock(_TURN + self._holds)
            self._holds = None

    def _lock(self, place: int) -> bool:
        """Lock a byte; false if another process, or another of these, has it."""
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _range(fcntl.F_WRLCK, place))
        except BlockingIOError:
            return False
        return True

    def _unlock(self, place: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _range(fcntl.F_UNLCK, place))


def _range(kind: int, place: int, size: int = 1) -> bytes:
    """What fcntl takes for some bytes; a size of 0 is all that follow."""
    return _LOCK.pack(kind, os.SEEK_SET, place, size, 0)
