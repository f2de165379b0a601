"""The models that there are, loaded or not: where each is, what is known of it, what failed."""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from app.engine.errors import EngineUnavailable
from app.engine.model_info import ModelInfo, Models
from models.shelf import Shelf, Shelved

log = logging.getLogger(__name__)

_AGAIN, _LONGEST_AGAIN = 10.0, 300.0  # seconds before a model that did not load is tried again
_SCAN = 0.5  # seconds between two looks into the folders


class _Failure(NamedTuple):
    reason: str
    at: float  # time.monotonic()
    until: float  # when requests try it again
    shelved: Shelved | None  # what did not load


class Catalogue:
    """The models by name: those that stay, given as name -> place, and those found in folders.

    `held` says of a name whether a worker or a request has it: until the end of both it is what was
    loaded, whatever becomes of its files. `changed` is called when `models` may be others.
    """

    def __init__(
        self,
        stay: Mapping[str, str],
        folders: Sequence[Path],
        held: Callable[[str], bool],
        changed: Callable[[], None],
    ) -> None:
        self._stay, self._held, self._changed = stay, held, changed
        self._shelf = Shelf(folders, stay) if folders else None
        self._shelved: Mapping[str, Shelved] = {}  # in the folders, at the last look
        self._looking: asyncio.Task[None] | None = None
        self._looked = -math.inf  # time.monotonic()
        self._infos: dict[str, ModelInfo] = {}  # of models that were loaded once
        self._from: dict[str, Shelved | None] = {}  # what these, or those that load, are read from
        self._failures: dict[str, _Failure] = {}
        self._tries: Counter[str] = Counter()  # in a row that failed
        self._settled = False  # of each model that stays, it is known whether it loads
        self.models = Models()  # empty until then

    @property
    def names(self) -> Sequence[str]:
        """All models: those that stay first, of which the first is the default."""
        return tuple(dict.fromkeys((*self._stay, *sorted({*self._infos, *self._shelved}))))

    @property
    def failed(self) -> Mapping[str, str]:
        """The models that did not load, and why."""
        order = dict.fromkeys((*self.names, *self._failures))
        return {name: self._failures[name].reason for name in order if name in self._failures}

    def stays(self, name: str) -> bool:
        """Whether a model is loaded from the start on."""
        return name in self._stay

    def has(self, name: str) -> bool:
        """Whether there is a model of this name to load."""
        return name in self._stay or name in self._shelved

    def take(self, name: str) -> str:
        """Where to load a model from, which it `has`; from now on it is about to be loaded."""
        self._failures.pop(name, None)
        self._from[name] = shelved = self._shelved.get(name)
        return self._stay[name] if shelved is None else str(shelved.place)

    def loaded(self, info: ModelInfo) -> bool:
        """Note what a model is; whether it is another one than before under its name."""
        before = self._infos.get(info.name)
        self._infos[info.name] = info
        self._failures.pop(info.name, None)
        del self._tries[info.name]
        self._describe()
        return before is not None and before.digest != info.digest

    def left_out(self, name: str, reason: str, *, require_all: bool = False) -> str | None:
        """Note that a model did not load; why the server cannot go on, None if it can.

        That one had to load, or none of those that stay did.
        """
        now = time.monotonic()
        pause = min(_AGAIN * 2 ** min(self._tries[name], 10), _LONGEST_AGAIN)
        self._tries[name] += 1
        self._failures[name] = _Failure(reason, now, now + pause, self._from.get(name))
        self._infos.pop(name, None)
        fatal = self._fatal(name, require_all)
        self._describe()
        return fatal

    def check(self, name: str, since: float = math.inf) -> None:
        """Raise `EngineUnavailable` if a model failed after `since`, or may not be tried yet.

        Or if it is gone. The times are those of `time.monotonic`.
        """
        failure, now = self._failures.get(name), time.monotonic()
        if failure is not None and (failure.at >= since or failure.until > now):
            again = max(math.ceil(failure.until - now), 1)
            raise EngineUnavailable(f"model {name!r} does not load: {failure.reason}", again)
        if name not in self.names:
            raise EngineUnavailable(f"model {name!r} is not there any more")

    def paused(self, name: str) -> bool:
        """Whether a model did not load a while ago, and is not to be tried yet."""
        failure = self._failures.get(name)
        return failure is not None and failure.until > time.monotonic()

    def forgive(self, name: str) -> None:
        """Let a model that did not load be tried at once."""
        self._failures.pop(name, None)

    def _fatal(self, name: str, require_all: bool) -> str | None:
        failed = {name: why for name, why in self.failed.items() if self.stays(name)}
        none_left = len(failed) == len(self._stay) and not self._settled
        if not (self.stays(name) and (require_all or none_left)):
            return None
        told = "; ".join(f"{name}: {why}" for name, why in failed.items())
        return f"models do not load: {told}" if len(self._stay) > 1 else failed[name]

    def look(self) -> None:
        """Look through the folders for the first time."""
        if self._shelf is not None and self._looked == -math.inf:
            self._adopt(self._shelf.scan())

    async def refresh(self) -> None:
        """Look through the folders, unless that was done just now.

        All who ask meanwhile await one look, which goes on when they leave.
        """
        if self._shelf is None:
            return
        if self._looking is None and time.monotonic() - self._looked >= _SCAN:
            self._looking = asyncio.create_task(self._look(self._shelf))
        if self._looking is not None:
            await asyncio.shield(self._looking)

    async def _look(self, shelf: Shelf) -> None:
        try:
            self._adopt(await asyncio.to_thread(shelf.scan))
        finally:
            self._looking = None

    def _adopt(self, found: Mapping[str, Shelved]) -> None:
        self._shelved, self._looked = found, time.monotonic()
        self.prune()

    def prune(self) -> None:
        """Forget what is known of models that are gone, or others by now."""
        for name in [*self._infos]:
            if self._is_stale(name, self._from.get(name)) and not self._held(name):
                del self._infos[name]
        for name, failure in [*self._failures.items()]:
            if self._is_stale(name, failure.shelved):
                del self._failures[name], self._tries[name]
        for name in [*self._from]:
            if not (name in self._infos or name in self._failures or self._held(name)):
                del self._from[name]
        self._describe()

    def _is_stale(self, name: str, shelved: Shelved | None) -> bool:
        found = self._shelved.get(name)
        return not self.stays(name) and (found is None or found != shelved)

    def _describe(self) -> None:
        """Say which models requests may name now."""
        stay = [name for name in self._stay if name in self._infos]
        if not self._settled and all(
            name in self._infos or name in self._failures for name in self._stay
        ):
            self._settled = True
            first = next(iter(self._stay))
            if stay and stay[0] != first:
                log.warning("requests that name no model get %s instead of %s", stay[0], first)
        if self._settled:
            order = dict.fromkeys((*stay, *sorted(self._infos)))
            self.models = Models((self._infos[name] for name in order), self.failed, self.names)
            self._changed()
