"""Which models leave, and when. It knows no workers and no clock."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

_FRESH = 0.2  # seconds in which a model that was just loaded, or used, does not leave for another


@dataclass(frozen=True)
class Keeping:
    """Which models come and go: those in `folders`, unless others have their names.

    They leave after `idle_seconds`. At most `most` models are loaded at once. None is no limit. A
    model that is always busy leaves as well, once another has waited for `turn_seconds`.
    """

    folders: tuple[Path, ...] = ()
    idle_seconds: float | None = None
    most: int | None = None
    turn_seconds: float = 30.0

    def has_room(self, loaded: int) -> bool:
        """Whether another model may be loaded beside so many."""
        return self.most is None or loaded < self.most

    def leaving(
        self, idle: Mapping[str, float], busy: Mapping[str, float], waited: float | None
    ) -> tuple[Collection[str], float | None]:
        """The models that leave now, and in how many seconds to ask again; None if never.

        `idle` are the models that may leave, with the seconds since each was used. `busy` are those
        that have requests, with the seconds since each was loaded. `waited`: for how long a model
        has waited for the place of one of them; None if none does.
        """
        waits: list[tuple[str, float]] = []
        if waited is not None and idle:
            oldest = max(idle, key=idle.__getitem__)
            waits.append((oldest, _FRESH - idle[oldest]))
        elif waited is not None and busy:
            oldest = max(busy, key=busy.__getitem__)
            waits.append((oldest, self.turn_seconds - min(busy[oldest], waited)))
        if self.idle_seconds is not None:
            waits += [(name, self.idle_seconds - seconds) for name, seconds in idle.items()]
        later = [left for _, left in waits if left > 0]
        if waited is not None:
            later.append(_FRESH)
        if busy and self.idle_seconds is not None:
            later.append(self.idle_seconds)
        return {name for name, left in waits if left <= 0}, min(later, default=None)
