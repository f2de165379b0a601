"""The engine's loop: inbox -> plan -> step -> outbox.

Commands come in, events go out; the loop shares nothing else with the server, so it runs as well in
a process of its own as in a thread.
"""

import logging
import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.engine.job import (
    Cancel,
    Command,
    Done,
    Event,
    Failed,
    Job,
    ModelInfo,
    Pixels,
    Ready,
    Refused,
    Stop,
    Stopped,
    Submit,
)
from app.engine.scheduler import Scheduler, Slot

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker loads and how much it takes on at once.

    `models` is name -> folder; `slots` images are in flight a model.
    """

    models: Mapping[str, Path]
    device: str
    dtype: str
    slots: int


class Mechanism(Protocol):
    """What the loop asks of a runner."""

    info: ModelInfo

    def start(self, slot: Slot) -> None: ...
    def step(self, slots: tuple[Slot, ...]) -> None: ...
    def finish(self, slots: tuple[Slot, ...]) -> list[Pixels | None]: ...
    def drop(self, slots: tuple[Slot, ...]) -> None: ...


def load_runners(config: WorkerConfig) -> list[Mechanism]:
    """Open every model, and warm it up."""
    from app.engine.runner import Runner  # PyTorch is loaded where it is used, and only there

    runners = []
    for name, folder in config.models.items():
        runner = Runner.open(name, folder, config.device, config.dtype)
        runner.warm_up()
        runners.append(runner)
    return list(runners)


class Worker:
    """One scheduler and one runner a model, and the loop over them."""

    def __init__(
        self,
        config: WorkerConfig,
        inbox: "queue.SimpleQueue[Command]",
        emit: Callable[[Event], None],
        load: Callable[[WorkerConfig], list[Mechanism]] = load_runners,
    ) -> None:
        self._config, self._inbox, self._emit, self._load = config, inbox, emit, load
        self._lanes: dict[str, tuple[Scheduler, Mechanism]] = {}

    def run(self) -> None:
        """Load, then serve until `Stop`; says `Stopped` (or `Refused`) last, whatever happens."""
        try:
            runners = self._load(self._config)
        except Exception as error:  # any failure to load is the server's to report
            self._emit(Refused(str(error) or repr(error)))
            return
        for runner in runners:
            self._lanes[runner.info.name] = (Scheduler(self._config.slots), runner)
        self._emit(Ready(tuple(runner.info for runner in runners)))
        try:
            while self._receive():
                for scheduler, runner in self._lanes.values():
                    if scheduler.busy:
                        self._tick(scheduler, runner)
        finally:
            self._emit(Stopped())

    def _receive(self) -> bool:
        """Take every command there is, waiting for one when idle; false at `Stop`."""
        idle = not any(scheduler.busy for scheduler, _ in self._lanes.values())
        while True:
            try:
                command = self._inbox.get(block=idle)
            except queue.Empty:
                return True
            idle = False
            if isinstance(command, Stop):
                return False
            if isinstance(command, Submit):
                scheduler, _ = self._lanes[command.params.model]
                scheduler.submit(Job(command.job_id, command.params))
            elif isinstance(command, Cancel):
                for scheduler, runner in self._lanes.values():
                    runner.drop(scheduler.cancel(command.job_id))

    def _tick(self, scheduler: Scheduler, runner: Mechanism) -> None:
        plan = scheduler.plan()
        try:
            for slot in plan.admitted:
                runner.start(slot)
            runner.step(plan.riding)
            finished = scheduler.advance(plan)
            made = runner.finish(finished)
        except Exception as error:  # the batch is lost, the service is not
            log.exception("a step failed; every request in it fails")
            for job in {slot.job.id: slot.job for slot in plan.riding}.values():
                self._fail(scheduler, runner, job, f"{type(error).__name__} in the sampler")
            return
        for slot, pixels in zip(finished, made, strict=True):
            if slot.job.ended:  # a sibling image failed in this very tick
                continue
            if pixels is None:
                self._fail(scheduler, runner, slot.job, "an image is not finite")
            elif scheduler.deliver(slot, pixels):
                images = tuple(slot.job.images[k] for k in range(slot.job.params.n))
                self._emit(Done(slot.job.id, images))

    def _fail(self, scheduler: Scheduler, runner: Mechanism, job: Job, reason: str) -> None:
        runner.drop(scheduler.fail(job))
        self._emit(Failed(job.id, reason))
