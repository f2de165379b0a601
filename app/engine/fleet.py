"""The models of a server, loaded or not: which have a worker now, and which one leaves for another.

Every model has a worker of its own, which ends when the model is unloaded: so all of its memory
returns. Some models stay from the start on. Others are found in folders, are loaded when somebody
wants them, and leave when they are idle for long or in the way.
"""

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import msgspec

from app.engine import turnstile
from app.engine.errors import EngineUnavailable
from app.engine.model_info import ModelInfo, Models
from app.engine.process import WorkerProcess
from app.engine.supervisor import Supervisor
from app.engine.watchdog import Upkeep
from app.engine.wire import Command, Event, LeftOut, Load, Ready
from models.shelf import Shelf

log = logging.getLogger(__name__)

_AGAIN = 10.0  # seconds after which a model that did not load may be tried again
_FRESH = 0.2  # seconds in which a model that was just loaded, or used, does not leave for another
_SCAN = 0.5  # seconds between two looks into the folders


@dataclass(frozen=True)
class Keeping:
    """Which models come and go: those in `folders`, unless others have their names.

    They leave after `idle_seconds`. At most `most` models are loaded at once. None is no limit.
    """

    folders: tuple[Path, ...] = ()
    idle_seconds: float | None = None
    most: int | None = None


class State(StrEnum):
    """Of a model."""

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    FAILED = "failed"


@dataclass(frozen=True)
class _Failure:
    reason: str
    at: float


class Requests(Protocol):
    """Those that wait for models, or run: what a fleet asks of them and tells them."""

    def wanted(self) -> Collection[str]:
        """The models that have any."""

    def sent(self, model: str) -> bool:
        """Whether the worker of this model has any."""

    def heard(self, event: Event) -> None:
        """A worker said this."""

    def buried(self, model: str) -> None:
        """The worker of this model died; what was sent is unsent."""

    def unloaded(self, model: str) -> None:
        """This model has no worker any more, and nothing was sent."""

    def changed(self) -> None:
        """Other models are there; or no worker can be had any more."""


class Fleet:
    """The models by name, and a supervisor for each that has a worker.

    `load` names the models that are loaded at the start and stay. `refused` is called when no
    worker can go on, which is a reason to stop the server.
    """

    def __init__(
        self,
        load: Load,
        start: Callable[[Load], WorkerProcess],
        upkeep: Upkeep,
        keeping: Keeping,
        requests: Requests,
    ) -> None:
        self._load, self._start, self._upkeep, self._keeping = load, start, upkeep, keeping
        self._requests = requests
        self._shelf = Shelf(keeping.folders, load.models)
        self._scanned = -_SCAN  # when the folders were looked through; time.monotonic()
        self._file: int | None = None  # what the workers share
        self._supervisors: dict[str, Supervisor] = {}
        self._infos: dict[str, ModelInfo] = {}  # of models that were loaded once
        self._failures: dict[str, _Failure] = {}
        self._waiters: Counter[str] = Counter()  # by model, those who wait for it without a request
        self._used: dict[str, float] = {}  # by model, when it last was; time.monotonic()
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()  # set briefly when something changes
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self._settled = False  # of each model that stays, it is known whether it loads
        self._ended = 0  # workers that died, of supervisors that are no more
        self.models = Models()
        self.fault: str | None = None  # why no worker can be had
        self.refused: Callable[[], None] = lambda: None

    @property
    def names(self) -> Sequence[str]:
        """All models, loaded or not: those that stay first, of which the first is the default."""
        return tuple(dict.fromkeys((*self._load.models, *self._infos, *self._shelf.models)))

    @property
    def workers(self) -> Mapping[str, WorkerProcess]:
        """The workers that there are, by model."""
        each = ((name, self._supervisors.get(name)) for name in self.names)
        return {name: one.worker for name, one in each if one is not None and one.worker}

    @property
    def failed(self) -> Mapping[str, str]:
        """The models that did not load, and why."""
        order = dict.fromkeys((*self.names, *self._failures))
        return {name: self._failures[name].reason for name in order if name in self._failures}

    @property
    def restarts(self) -> int:
        """How often a worker died."""
        return self._ended + sum(each.restarts for each in self._supervisors.values())

    @property
    def load_seconds(self) -> Mapping[str, float]:
        """What loading each model that is loaded took."""
        return {name: each.took for name, each in self._supervisors.items() if each.up}

    @property
    def watching(self) -> bool:
        """Whether somebody looks after the workers."""
        return self._running

    @property
    def ready(self) -> bool:
        """Whether no model that stays is about to be loaded, and not all failed."""
        states = {self.state(name) for name in self._load.models}
        return State.LOADING not in states and bool({State.LOADED, State.UNLOADED} & states)

    def state(self, name: str) -> State:
        """Of one of the `names`."""
        supervisor = self._supervisors.get(name)
        if supervisor is not None and supervisor.leaving:
            return State.UNLOADED
        if supervisor is not None and supervisor.up:
            return State.LOADED
        if name in self._failures:
            return State.FAILED
        return State.LOADING if supervisor is not None else State.UNLOADED

    def stays(self, name: str) -> bool:
        """Whether a model is loaded from the start on."""
        return name in self._load.models

    def used(self, name: str) -> float | None:
        """Seconds since a model was last asked for something, or loaded; None if it never was."""
        at = self._used.get(name)
        return None if at is None else time.monotonic() - at

    def restarts_of(self, name: str) -> int:
        """How often a worker of this model died since it was loaded."""
        supervisor = self._supervisors.get(name)
        return supervisor.restarts if supervisor is not None else 0

    def worker(self, name: str) -> Supervisor | None:
        """Who takes requests for a model; None if nobody does."""
        supervisor = self._supervisors.get(name)
        return supervisor if supervisor is not None and not supervisor.leaving else None

    def send(self, name: str, command: Command) -> None:
        """Say something to a model's worker, if there is one."""
        if name in self._supervisors:
            self._supervisors[name].send(command)

    def outage(self, name: str) -> float:
        """Seconds until a model that was loaded takes requests again."""
        supervisor = self._supervisors.get(name)
        return supervisor.outage if supervisor is not None else 0.0

    def launch(self) -> None:
        """Start the workers that stay, now: they load while the rest of the server comes up."""
        self._shelf.scan()
        for name in self._load.models:
            self._supervisor(name).launch()

    def watch(self) -> None:
        """Start to look after the workers."""
        self.launch()
        self._running = True
        for name in self._load.models:
            self._supervisor(name).watch()

    def retire(self) -> None:
        """Start no more workers."""
        self._running = False
        for supervisor in self._supervisors.values():
            supervisor.retire()

    def kill(self) -> None:
        """Kill all workers."""
        for supervisor in self._supervisors.values():
            supervisor.kill()

    async def close(self) -> None:
        """Stop all workers for good."""
        self.retire()
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(*(each.close() for each in self._supervisors.values()))
        self._tell()
        await asyncio.gather(*self._leaving.values())
        if self._file is not None:
            os.close(self._file)
            self._file = None

    async def refresh(self) -> None:
        """Look through the folders, unless that was done just now."""
        if not self._keeping.folders or time.monotonic() - self._scanned < _SCAN:
            return
        self._scanned = time.monotonic()
        before = self._shelf.models
        await asyncio.to_thread(self._shelf.scan)
        wanted = self._wanted()
        for name in [name for name in self._infos if not self._supervisors.get(name)]:
            if name not in wanted and before.get(name) != self._shelf.models.get(name):
                del self._infos[name]  # another model by now, or none
        for name in [name for name in self._failures if before.get(name)]:
            if before[name] != self._shelf.models.get(name):
                del self._failures[name]
        self._describe()

    async def open(self, name: str) -> None:
        """Load a model, if it is not loaded, and return when it is.

        Raises:
            EngineUnavailable: it does not load, or did not a moment ago.
        """
        began = time.monotonic()
        self._check(name, began - _AGAIN)
        self._waiters[name] += 1
        try:
            self.tend()
            while self.state(name) is not State.LOADED:
                await self._news.wait()
                self._check(name, began)
        finally:
            self._waiters[name] -= 1
            self._waiters += Counter()  # without those that are 0

    async def unload(self, name: str) -> None:
        """End a model's worker, once the requests that it has are answered."""
        if name in self._supervisors:
            await asyncio.shield(self._leave(name))

    def touch(self, name: str, *, ended: bool = False) -> None:
        """Note that a request for a model came, or `ended`."""
        self._used[name] = time.monotonic()
        if ended and self._leaving:
            self._tell()
        if not ended and name not in self._supervisors:
            self.tend()

    def heard(self, event: Event) -> None:
        """Note what a worker says, and pass it on."""
        if isinstance(event, Ready):
            for info in event.models:
                before = self._infos.get(info.name)
                self._infos[info.name] = info
                if before is not None and before.digest != info.digest:
                    self._requests.heard(LeftOut(info.name, "its files have changed; ask again"))
                self._failures.pop(info.name, None)
                self._used[info.name] = time.monotonic()
        elif isinstance(event, LeftOut):
            self._failures[event.model] = _Failure(event.reason, time.monotonic())
            self._infos.pop(event.model, None)
            self._judge(event.model)
        if isinstance(event, Ready | LeftOut):
            self._describe()
        self._requests.heard(event)
        if isinstance(event, Ready | LeftOut):
            self._tell()
            self.tend()

    def buried(self, model: str) -> None:
        """A worker died."""
        self._requests.buried(model)
        self._tell()

    def ended(self, model: str, error: BaseException | None) -> None:
        """A supervisor has ended by itself."""
        if error is not None:
            self._give_up("the worker's supervision failed; the log says why")
        if model not in self._leaving:
            self._forget(model)
            self.tend()

    def tend(self) -> None:
        """Start and end workers as they are wanted; called whenever that may have changed."""
        if not self._running or self.fault is not None:
            return
        missing = [name for name in self._wanted() if name not in self._supervisors]
        for name in missing:
            if not (self.stays(name) or name in self._shelf.models):
                self.heard(LeftOut(name, "it is not there any more"))
            elif self._has_room():
                self._supervisor(name).watch()
        due = self._dismiss(hungry=any(name not in self._supervisors for name in missing))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(due, 0.01), self.tend)

    def _dismiss(self, *, hungry: bool) -> float | None:
        """Let idle models leave; seconds until another one may have to."""
        now, idle = time.monotonic(), sorted(self._idle(), key=self._used.__getitem__)
        waits = []
        if hungry and idle and not self._leaving:  # the least recently used alone
            waits.append((idle[0], self._used[idle[0]] + _FRESH - now))
        if self._keeping.idle_seconds is not None:
            waits += [(name, self._used[name] + self._keeping.idle_seconds - now) for name in idle]
        for name, left in waits:
            if left <= 0:
                self._leave(name)
        later = [left for _, left in waits if left > 0]
        if hungry:
            later.append(_FRESH)  # one that is busy may be idle by then
        elif self._keeping.idle_seconds is not None and len(self._supervisors) > len(idle):
            later.append(self._keeping.idle_seconds)  # of those that are busy
        return min(later, default=None)

    def _idle(self) -> Iterator[str]:
        """The models that are loaded, need not stay, and have nothing to do."""
        wanted = self._wanted()
        for name, supervisor in self._supervisors.items():
            here = supervisor.up and not supervisor.leaving
            if here and not self.stays(name) and name not in wanted:
                yield name

    def _wanted(self) -> Collection[str]:
        """The models that somebody waits for, or has."""
        return dict.fromkeys((*self._waiters, *self._requests.wanted()))

    def _has_room(self) -> bool:
        return self._keeping.most is None or len(self._supervisors) < self._keeping.most

    def _supervisor(self, name: str) -> Supervisor:
        """That of a model, new if there is none."""
        if name not in self._supervisors:
            if self._file is None:
                self._file = turnstile.shared()
            own = self._load.models
            place = own[name] if name in own else str(self._shelf.models[name].place)
            load = msgspec.structs.replace(self._load, models={name: place}, turnstile=self._file)
            self._failures.pop(name, None)
            self._supervisors[name] = Supervisor(
                load, self._start, self, self._upkeep, stays=self.stays(name)
            )
        return self._supervisors[name]

    def _leave(self, name: str) -> "asyncio.Task[None]":
        """Let a model's worker end."""
        if name not in self._leaving:
            self._supervisors[name].leaving = True
            self._leaving[name] = asyncio.create_task(self._end(name))
        return self._leaving[name]

    async def _end(self, name: str) -> None:
        while self._requests.sent(name):
            await self._news.wait()
        await self._supervisors[name].close()
        log.info("model %s is unloaded", name)
        del self._leaving[name]
        self._forget(name)
        self.tend()

    def _forget(self, name: str) -> None:
        """A model has no worker any more."""
        if supervisor := self._supervisors.pop(name, None):
            self._ended += supervisor.restarts
        self._requests.unloaded(name)
        self._tell()

    def _check(self, name: str, since: float) -> None:
        """Raise `EngineUnavailable` if a model did not load since then, or nothing will be."""
        if self.fault is not None or not self._running:
            raise EngineUnavailable(self.fault or "the server is stopping")
        failure = self._failures.get(name)
        if failure is not None and failure.at > since:
            raise EngineUnavailable(f"model {name!r} does not load: {failure.reason}")
        if name not in self.names:
            raise EngineUnavailable(f"model {name!r} is not there any more")

    def _judge(self, model: str) -> None:
        """Give up if a model had to be loaded, or if nothing is left that may be."""
        failed = {name: why for name, why in self.failed.items() if self.stays(name)}
        none_left = len(failed) == len(self._load.models) and not self._settled
        if self.stays(model) and (self._upkeep.require_all or none_left):
            told = "; ".join(f"{name}: {why}" for name, why in failed.items())
            several = len(self._load.models) > 1
            self._give_up(f"models do not load: {told}" if several else failed[model])

    def _give_up(self, reason: str) -> None:
        if self.fault is None:
            self.fault = reason
            self.retire()
            self.kill()
            self._tell()
            self._requests.changed()
            self.refused()

    def _describe(self) -> None:
        """Say which models requests may name now."""
        stay = [name for name in self._load.models if name in self._infos]
        if not self._settled and all(
            name in self._infos or name in self._failures for name in self._load.models
        ):
            self._settled = True
            first = next(iter(self._load.models))
            if stay and stay[0] != first:
                log.warning("requests that name no model get %s instead of %s", stay[0], first)
        if self._settled:
            order = dict.fromkeys((*stay, *sorted(self._infos)))
            loaded = [self._infos[name] for name in order]
            self.models = Models(loaded, self.failed, self.names)
            self._requests.changed()

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()
