"""How long single ticks take on a device that runs them one after the other without a pause.

A tick is begun while the last one still runs, on some devices before that has even begun. So what
is known is when ticks begin. Of three ticks in a row that are alike, the time between the last two
begins is that of one of them: on a CPU of the second, on a GPU, where the host is one tick ahead,
of the first. Before a tick of another size the parts of a CPU wait for each other, so that tells
nothing. Or several alike begin on a device that does nothing else, and then it is waited for: their
time is divided by their number.

It has no clock of its own; times are seconds of any clock.
"""

from dataclasses import dataclass


@dataclass
class _Row:
    """Ticks in a row that are alike, with nothing beside them."""

    rows: int
    idle_since: float | None  # when the first was asked for, if the device had nothing else to do
    begun: float  # when the last had begun
    count: int = 1


class Stopwatch:
    """What is known of the ticks of one lane."""

    def __init__(self) -> None:
        self._row: _Row | None = None
        self._idle = True  # nothing has begun on the device since it was waited for

    def begin(self, rows: int, asked: float, begun: float) -> tuple[int, float] | None:
        """A tick was asked for and has begun; (rows, seconds) of a tick before it, if known."""
        row, known = self._row, None
        if row and row.rows == rows and row.count >= 2:
            known = rows, begun - row.begun
        if row and row.rows == rows:
            row.begun, row.count = begun, row.count + 1
        else:
            self._row = _Row(rows, asked if self._idle else None, begun)
        self._idle = False
        return known

    def settle(self, now: float) -> tuple[int, float] | None:
        """All ticks are done, and it was waited for that; (rows, seconds) of one, if known."""
        row, self._row, self._idle = self._row, None, True
        if row is None or row.idle_since is None:
            return None
        return row.rows, (now - row.idle_since) / row.count

    def disturb(self) -> None:
        """Something else runs on the device, or nothing: no time across this is that of ticks."""
        self._row, self._idle = None, False
