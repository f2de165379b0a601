"""The models of a server, loaded or not: which have a worker now, and which one leaves for another.

Every model has a worker of its own, which ends when the model is unloaded: so all of its memory
returns. Some models stay from the start on. Others are found in folders, are loaded when somebody
wants them, and leave when they are idle for long or in the way.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, KeysView, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

from app.engine.catalogue import Catalogue
from app.engine.crew import Crew
from app.engine.errors import EngineUnavailable
from app.engine.keeping import Keeping
from app.engine.model_info import Models
from app.engine.process import WorkerProcess
from app.engine.supervisor import Supervisor
from app.engine.watchdog import Upkeep
from app.engine.wire import Event, LeftOut, Load, Ready

log = logging.getLogger(__name__)


class State(StrEnum):
    """Of a model."""

    LOADED = "loaded"
    LOADING = "loading"
    UNLOADED = "unloaded"
    FAILED = "failed"


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
        self._stay, self._keeping, self._requests = tuple(load.models), keeping, requests
        self._require_all = upkeep.require_all
        self._catalogue = Catalogue(load.models, keeping.folders, self._holds, requests.changed)
        self.crew = Crew(load, start, self, upkeep)
        self._waiters: Counter[str] = Counter()  # by model, those who wait for it without a request
        self._used: dict[str, float] = {}  # by model, when it last was; time.monotonic()
        self._loaded: dict[str, float] = {}  # by model, when it was, the last time
        self._waiting: dict[str, float] = {}  # by model without a worker, since when it is wanted
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._news = asyncio.Event()  # set briefly when something changes
        self._timer: asyncio.TimerHandle | None = None
        self._running = False
        self.fault: str | None = None  # why no worker can be had
        self.refused: Callable[[], None] = lambda: None

    @property
    def models(self) -> Models:
        """What requests may name."""
        return self._catalogue.models

    @property
    def names(self) -> Sequence[str]:
        """All models, loaded or not: those that stay first, of which the first is the default."""
        return self._catalogue.names

    @property
    def failed(self) -> Mapping[str, str]:
        """The models that did not load, and why."""
        return self._catalogue.failed

    @property
    def workers(self) -> Mapping[str, WorkerProcess]:
        """The workers that there are, by model."""
        each = ((name, self.crew.get(name)) for name in self.names)
        return {name: one.worker for name, one in each if one is not None and one.worker}

    @property
    def restarts(self) -> int:
        """How often a worker died."""
        return self.crew.restarts

    @property
    def watching(self) -> bool:
        """Whether somebody looks after the workers."""
        return self._running

    @property
    def ready(self) -> bool:
        """Whether no model that stays is about to be loaded, and not all failed."""
        states = {self.state(name) for name in self._stay}
        return State.LOADING not in states and bool({State.LOADED, State.UNLOADED} & states)

    def state(self, name: str) -> State:
        """Of one of the `names`."""
        supervisor = self.crew.get(name)
        if supervisor is not None and supervisor.leaving:
            return State.UNLOADED
        if supervisor is not None and supervisor.up:
            return State.LOADED
        if name in self.failed:
            return State.FAILED
        return State.LOADING if supervisor is not None else State.UNLOADED

    def stays(self, name: str) -> bool:
        """Whether a model is loaded from the start on."""
        return self._catalogue.stays(name)

    def used(self, name: str) -> float | None:
        """Seconds since a model was last asked for something, or loaded; None if it never was."""
        at = self._used.get(name)
        return None if at is None else time.monotonic() - at

    def launch(self) -> None:
        """Start the workers that stay, now: they load while the rest of the server comes up."""
        for name in self._stay:
            self._supervisor(name).launch()
        self._catalogue.look()

    def watch(self) -> None:
        """Start to look after the workers."""
        self.launch()
        self._running = True
        for name in self._stay:
            self._supervisor(name).watch()

    def retire(self) -> None:
        """Start no more workers."""
        self._running = False
        self.crew.retire()
        self._tell()

    async def close(self) -> None:
        """Stop all workers for good."""
        self.retire()
        if self._timer is not None:
            self._timer.cancel()
        await self.crew.close()
        self._tell()
        await asyncio.gather(*self._leaving.values())

    async def refresh(self) -> None:
        """Look through the folders, unless that was done just now."""
        await self._catalogue.refresh()

    async def open(self, name: str, *, at_once: bool = False) -> None:
        """Load a model, if it is not loaded, and return when it is.

        One that did not load a while ago is not tried again yet, unless `at_once`.

        Raises:
            EngineUnavailable: it does not load, or did not.
        """
        began = time.monotonic()
        if at_once:
            self._catalogue.forgive(name)
        self._check(name)
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
        if name in self.crew:
            await asyncio.shield(self._leave(name))

    def touch(self, name: str, *, ended: bool = False) -> None:
        """Note that a request for a model came, or `ended`."""
        self._used[name] = time.monotonic()
        if ended and self._leaving:
            self._tell()
        if not ended and name not in self.crew:
            self.tend()

    def heard(self, event: Event) -> None:
        """Note what a worker says, and pass it on."""
        if isinstance(event, Ready):
            for info in event.models:
                self._used[info.name] = self._loaded[info.name] = time.monotonic()
                if self._catalogue.loaded(info):
                    self._requests.heard(LeftOut(info.name, "its files have changed; ask again"))
        elif isinstance(event, LeftOut):
            model, reason, strict = event.model, event.reason, self._require_all
            why = self._catalogue.left_out(model, reason, require_all=strict)
            if why is not None:
                self._give_up(why)
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
        for name in self._queue():
            if not self._catalogue.has(name):
                self._lose(name)
            elif self._keeping.has_room(len(self.crew)):
                self._supervisor(name).watch()
        waited = max(self._queue().values(), default=None) if not self._leaving else None
        leaving, again = self._keeping.leaving(self._idle(), self._busy(), waited)
        for name in leaving:
            self._leave(name)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if again is not None:
            self._timer = asyncio.get_running_loop().call_later(max(again, 0.01), self.tend)

    def _queue(self) -> Mapping[str, float]:
        """The models that wait for a worker, and for how many seconds, the longest first."""
        now = time.monotonic()
        lacking = (name for name in self._wanted() if name not in self.crew)
        waiting = [name for name in lacking if not self._catalogue.paused(name)]
        self._waiting = {name: self._waiting.get(name, now) for name in waiting}
        return {
            name: now - self._waiting[name]
            for name in sorted(waiting, key=self._waiting.__getitem__)
        }

    def _lose(self, name: str) -> None:
        """A model is gone before it could be loaded."""
        gone = LeftOut(name, "it is not there any more")
        self._catalogue.left_out(name, gone.reason)
        self._requests.heard(gone)
        self._tell()

    def _idle(self) -> Mapping[str, float]:
        """The models that may leave, with the seconds since each was used."""
        now, wanted = time.monotonic(), self._wanted()
        return {name: now - self._used[name] for name in self._passing() if name not in wanted}

    def _busy(self) -> Mapping[str, float]:
        """Those that may leave once they have answered, with the seconds since each was loaded."""
        now, wanted = time.monotonic(), self._wanted()
        return {name: now - self._loaded[name] for name in self._passing() if name in wanted}

    def _passing(self) -> Sequence[str]:
        """The loaded models that neither stay nor leave already."""
        passing = self.crew.items()
        return [
            name for name, one in passing if one.up and not one.leaving and not self.stays(name)
        ]

    def _wanted(self) -> KeysView[str]:
        """The models that somebody waits for, or has, in order."""
        return dict.fromkeys((*self._waiters, *self._requests.wanted())).keys()

    def _holds(self, name: str) -> bool:
        """Whether a model has a worker, or somebody waits for one."""
        return name in self.crew or name in self._wanted()

    def _supervisor(self, name: str) -> Supervisor:
        """That of a model, new if there is none."""
        if name in self.crew:
            return self.crew[name]
        return self.crew.hire(name, self._catalogue.take(name), stays=self.stays(name))

    def _leave(self, name: str) -> "asyncio.Task[None]":
        """Let a model's worker end."""
        if name not in self._leaving:
            self.crew[name].leaving = True
            self._leaving[name] = asyncio.create_task(self._end(name))
        return self._leaving[name]

    async def _end(self, name: str) -> None:
        while self._requests.sent(name):
            await self._news.wait()
        await self.crew[name].close()
        log.info("model %s is unloaded", name)
        del self._leaving[name]
        self._forget(name)
        self.tend()

    def _forget(self, name: str) -> None:
        """A model has no worker any more."""
        self.crew.dismiss(name)
        self._requests.unloaded(name)
        self._catalogue.prune()
        self._tell()

    def _check(self, name: str, since: float = math.inf) -> None:
        """Raise `EngineUnavailable` if a model failed since, or is gone, or nothing will be."""
        if self.fault is not None or not self._running:
            raise EngineUnavailable(self.fault or "the server is stopping")
        self._catalogue.check(name, since)

    def _give_up(self, reason: str) -> None:
        if self.fault is None:
            self.fault = reason
            self.retire()
            self.crew.kill()
            self._requests.changed()
            self.refused()

    def _tell(self) -> None:
        self._news.set()
        self._news.clear()
