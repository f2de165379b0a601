"""Whether a worker hangs. Policy alone: somebody else looks, counts the seconds, and kills.

Only seconds in which the server's event loop itself ran are counted. So a server that was stopped
for a while (SIGSTOP, a paused container, a sleeping laptop) does not take its worker for hung.
"""

from dataclasses import dataclass

_TICKS = 20  # expected ones: a worker that is slow is not hung


@dataclass(frozen=True)
class Upkeep:
    """How a worker is looked after; seconds."""

    hang_seconds: float = 30.0  # a worker that has something to say is silent no longer than this
    load_seconds: float = 600.0  # for its model
    require_all: bool = False  # rather no service than one with a model less


class Watchdog:
    """What was seen of one worker since it was started."""

    def __init__(self, upkeep: Upkeep) -> None:
        self._upkeep = upkeep
        self.waiting = False  # that model is fetched, or another is loaded: it has all the time
        self.tick: float | None = None  # seconds of the slowest there is; None until it is loaded
        self.loading = 0.0  # seconds it took to load, or has taken so far
        self.verdict = ""  # what is wrong with it
        self._quiet = 0.0  # seconds it has said nothing, though it had to
        self._heard = 0

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return min(1.0, self._upkeep.hang_seconds / 8)

    @property
    def overdue(self) -> bool:
        """Whether it has had all the time to load that there is."""
        return self.loading >= self._upkeep.load_seconds

    def look(self, seconds: float, *, heard: int, owes: bool) -> bool:
        """Whether it hangs: `heard` messages came so far, and it `owes` answers.

        The `seconds` since the last look count only at the next one, so messages that came in
        meanwhile are read before the worker is judged.
        """
        news, self._heard = heard != self._heard, heard
        if self.tick is None:
            if self.overdue:
                self.verdict = f"did not load within {self._upkeep.load_seconds:g} s"
                return True
            self.loading += 0.0 if self.waiting else seconds
            owes = True  # a sign of life now and then
        if news or not owes:
            self._quiet = 0.0
        elif self._quiet >= max(self._upkeep.hang_seconds, _TICKS * (self.tick or 0)):
            self.verdict = f"hangs: it has been silent for {self._quiet:.0f} s"
            return True
        else:
            self._quiet += seconds
        return False
