"""Which models leave, and when. It knows no workers and no clock."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

_FRESH = 0.2  # seconds in which a model that was just loaded, or used, does not leave for another


@dataclass(frozen=True)
class Keeping:
    """Which models come and go: those in `folders`, unless others have their names.

    They leave after `idle_seconds`. At most `most` models are loaded at once. None is no limit.
    """

    folders: tuple[Path, ...] = ()
    idle_seconds: float | None = None
    most: int | None = None

    def has_room(self, loaded: int) -> bool:
        """Whether another model may be loaded beside so many."""
        return self.most is None or loaded < self.most

    def leaving(
        self, idle: Mapping[str, float], *, crowded: bool, busy: bool
    ) -> tuple[Collection[str], float | None]:
        """The models that leave now, and in how many seconds to ask again; None if never.

        `idle` are the models that may leave, with the seconds since each was used. `crowded`:
        another one waits for the place of one of them. `busy`: there are others that may be idle
        later.
        """
        waits: list[tuple[str, float]] = []
        if crowded and idle:
            oldest = max(idle, key=idle.__getitem__)
            waits.append((oldest, _FRESH - idle[oldest]))
        if self.idle_seconds is not None:
            waits += [(name, self.idle_seconds - seconds) for name, seconds in idle.items()]
        later = [left for _, left in waits if left > 0]
        if crowded:
            later.append(_FRESH)
        if busy and self.idle_seconds is not None:
            later.append(self.idle_seconds)
        return {name for name, left in waits if left <= 0}, min(later, default=None)
