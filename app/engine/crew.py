"""The workers of a server: a supervisor for each model that has one."""

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping

import msgspec

from app.engine import turnstile
from app.engine.process import WorkerProcess
from app.engine.supervisor import Owner, Supervisor
from app.engine.watchdog import Upkeep
from app.engine.wire import Command, Load


class Crew(Mapping[str, Supervisor]):
    """Supervisors by the name of their model. `owner` is told what becomes of their workers."""

    def __init__(
        self, load: Load, start: Callable[[Load], WorkerProcess], owner: Owner, upkeep: Upkeep
    ) -> None:
        self._load, self._start, self._owner, self._upkeep = load, start, owner, upkeep
        self._file: int | None = None  # what the workers share: whose turn it is on the device
        self._supervisors: dict[str, Supervisor] = {}
        self._ended = 0  # workers that died, of supervisors that are no more

    def __getitem__(self, name: str) -> Supervisor:
        return self._supervisors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._supervisors)

    def __len__(self) -> int:
        return len(self._supervisors)

    @property
    def restarts(self) -> int:
        """How often a worker died."""
        return self._ended + sum(each.restarts for each in self.values())

    @property
    def load_seconds(self) -> Mapping[str, float]:
        """What loading each model that is loaded took."""
        return {name: each.took for name, each in self.items() if each.up}

    def restarts_of(self, name: str) -> int:
        """How often a worker of this model died since it was loaded."""
        return self[name].restarts if name in self else 0

    def taker(self, name: str) -> Supervisor | None:
        """Who takes requests for a model; None if nobody does."""
        supervisor = self.get(name)
        return supervisor if supervisor is not None and not supervisor.leaving else None

    def send(self, name: str, command: Command) -> None:
        """Say something to a model's worker, if there is one."""
        if name in self:
            self[name].send(command)

    def outage(self, name: str) -> float:
        """Seconds until a model that was loaded takes requests again."""
        return self[name].outage if name in self else 0.0

    def hire(self, name: str, place: str, *, stays: bool) -> Supervisor:
        """A supervisor for a model at a place."""
        if self._file is None:
            self._file = turnstile.shared()
        load = msgspec.structs.replace(self._load, models={name: place}, turnstile=self._file)
        supervisor = Supervisor(load, self._start, self._owner, self._upkeep, stays=stays)
        self._supervisors[name] = supervisor
        return supervisor

    def dismiss(self, name: str) -> None:
        """Forget a supervisor that has ended."""
        if supervisor := self._supervisors.pop(name, None):
            self._ended += supervisor.restarts

    def retire(self) -> None:
        """Start no more workers."""
        for supervisor in self.values():
            supervisor.retire()

    def kill(self) -> None:
        """Kill all workers."""
        for supervisor in self.values():
            supervisor.kill()

    async def close(self) -> None:
        """Stop all workers for good."""
        await asyncio.gather(*(each.close() for each in self.values()))
        if self._file is not None:
            os.close(self._file)
            self._file = None
