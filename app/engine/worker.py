"""The worker process: receive -> plan -> step -> deliver.

The server (supervisor.py) starts it with a socket to talk over. When the socket closes, the server
is gone, and the worker ends.
"""

import contextlib
import gc
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from app.engine.costs import Costs
from app.engine.errors import DeviceLost, OutOfMemory
from app.engine.job import Image, Job
from app.engine.model_info import ModelInfo
from app.engine.results import Pixels, Preview
from app.engine.scheduler import Plan, Scheduler
from app.engine.text import one_line
from app.engine.wire import (
    Admitted,
    Cancel,
    Cancelled,
    Command,
    Done,
    Event,
    Failed,
    LeftOut,
    Load,
    Loading,
    Progress,
    Ready,
    Shown,
    Stop,
    Submit,
    pack,
    read_command,
)

log = logging.getLogger(__name__)

_BEAT_SECONDS = 0.5
_MOST_NAMED = 16  # requests, in a line of the log
_POLL_SECONDS = 0.002  # between looks whether something was decoded
_REPORT_SECONDS = 0.2  # every client that follows is woken by each: they cost a few percent


class ModelRunner(Protocol):
    """The runner's interface for the loop: the tensors of one model, by slot."""

    info: ModelInfo
    due: float  # when the next step should be planned; time.perf_counter()

    def start(self, image: Image) -> None:
        """Put an image's initial noise into its slot."""

    def step(self, images: Sequence[Image], rows: int) -> None:
        """Begin a step of these images, all or none, in a bucket of `rows`.

        The step may still be running when this returns; raises `OutOfMemory`.
        """

    def preview(self, images: Sequence[Image]) -> None:
        """Keep the x0 of these images at the step begun last, for previews."""

    def previewed(self, *, wait: bool) -> list[tuple[Image, int, Pixels]]:
        """Previews, each with the evaluation it is of; with `wait`, all that were kept."""

    def decode(self, images: Sequence[Image]) -> None:
        """Begin to decode images that have made their last step; their slots are free after."""

    def decoded(self, *, wait: bool) -> list[tuple[Image, Pixels | str]]:
        """Newly decoded images, or why one failed; with `wait`, block if any were begun."""


Loader = Callable[[Load], list[ModelRunner]]


def load_runners(load: Load) -> list[ModelRunner]:
    """Open every model that `load` names, and warm it up."""
    from app.engine.runner import Runner  # PyTorch is loaded where it is used, and only there

    runners = [Runner.open(name, Path(folder), load) for name, folder in load.models.items()]
    for runner in runners:
        runner.warm_up()
    return list(runners)


@dataclass
class _Lane:
    """One model: its scheduler and its runner."""

    scheduler: Scheduler
    runner: ModelRunner
    costs: Costs
    decoding: int = 0
    sketched: dict[int, list[Preview]] = field(default_factory=dict)  # by job, not yet told


class Worker:
    """One scheduler and one runner per model, and the loop over them.

    `load` is called for one model at a time. `orphaned` is called from a separate thread when the
    server is gone, or cannot be understood.
    """

    def __init__(
        self, connection: socket.socket, load: Loader, orphaned: Callable[[], None]
    ) -> None:
        self._connection, self._load, self._orphaned = connection, load, orphaned
        self._writing = threading.RLock()  # while it loads, two threads do
        self._inbox: queue.SimpleQueue[tuple[Command, int]] = queue.SimpleQueue()
        self._lanes: dict[str, _Lane] = {}
        self._ticks = self._told = 0  # since the start, and at the last report
        self._reset()

    def run(self) -> None:
        """Load, then serve until `Stop`."""
        load = read_command(self._connection)
        if not isinstance(load, Load):
            return
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()
        self._open(load)
        if not self._lanes:
            return
        gc.freeze()  # what is loaded stays, so garbage collection need not search it
        self._emit(Ready(tuple(lane.runner.info for lane in self._lanes.values())))
        while self._receive():
            for lane in self._lanes.values():
                if lane.scheduler.busy:
                    self._tick(lane)
                self._deliver(lane)
            self._report()

    def stop(self) -> None:
        """End after the current tick; from any thread."""
        self._inbox.put((Stop(), self._ticks))

    def _listen(self) -> None:
        """Put commands into the inbox as they come, each with the tick it came in."""
        try:
            while (command := read_command(self._connection)) is not None:
                self._inbox.put((command, self._ticks))
        except Exception:
            log.exception("the server's message cannot be read; this worker ends")
        self._orphaned()

    def _open(self, load: Load) -> None:
        """Load one model after the other, with signs of life; leave out those that do not load."""
        opening, over = "", threading.Event()

        def beat() -> None:
            while not over.wait(_BEAT_SECONDS):
                with self._writing:
                    self._emit(Loading(opening))

        beats = threading.Thread(target=beat, name="heartbeat", daemon=True)
        for name, folder in load.models.items():
            with self._writing:  # after this, no sign of life may name the model before
                opening = name
                self._emit(Loading(name))
            if not beats.is_alive():
                beats.start()
            try:
                runners = self._load(msgspec.structs.replace(load, models={name: folder}))
            except DeviceLost:  # another process may load it
                raise
            except Exception as error:  # the server reports every failure to load
                self._emit(LeftOut(name, _reason(error)))
                continue
            for runner in runners:
                costs = runner.info.costs
                scheduler = Scheduler(load.slots or runner.info.slots, costs, load.rows)
                self._lanes[runner.info.name] = _Lane(scheduler, runner, costs)
        over.set()
        beats.join()

    @property
    def _busy(self) -> bool:
        """Whether there is a step to make."""
        return any(lane.scheduler.busy for lane in self._lanes.values())

    def _receive(self) -> bool:
        """Take the commands that come until the next tick is due; false at `Stop`.

        Where there is nothing to do, wait for one.
        """
        idle = not self._busy and not any(lane.decoding for lane in self._lanes.values())
        while (received := self._inbox.get() if idle else self._before_due()) is not None:
            if idle:  # idle time does not count as slowness
                idle, self._reported = False, time.perf_counter()
            command, came = received
            if isinstance(command, Stop):
                return False
            if isinstance(command, Submit):
                job = Job(command.job_id, command.request)
                self._lanes[job.params.model].scheduler.submit(job)
            elif isinstance(command, Cancel) and any(
                lane.scheduler.cancel(command.job_id) for lane in self._lanes.values()
            ):
                self._emit(Cancelled(command.job_id, self._ticks - came))
        return True

    def _before_due(self) -> tuple[Command, int] | None:
        """The next command that comes before the next tick is due; delivers meanwhile."""
        lanes = [lane for lane in self._lanes.values() if lane.scheduler.busy]
        due = min((lane.runner.due for lane in lanes), default=0.0)
        decoding = any(lane.decoding for lane in self._lanes.values())
        while (left := due - time.perf_counter()) > 0:
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=min(left, _POLL_SECONDS) if decoding else left)
            for lane in self._lanes.values():
                self._deliver(lane)
            decoding = any(lane.decoding for lane in self._lanes.values())
        with contextlib.suppress(queue.Empty):
            return self._inbox.get_nowait()
        return None

    def _tick(self, lane: _Lane) -> None:
        """One step of one model."""
        plan = lane.scheduler.plan()
        if plan.admitted:
            self._emit(Admitted(tuple({image.job.id: None for image in plan.admitted})))
        for image in plan.admitted:
            lane.runner.start(image)
        if plan.riding and not self._step(lane, plan):
            return
        if leaving := lane.scheduler.advance(plan):
            now = time.perf_counter()
            for image in leaving:
                image.job.denoised = now
            lane.runner.decode(leaving)
            lane.decoding += len(leaving)
        if shown := [image for image in plan.riding if image.evaluation in image.job.previews]:
            lane.runner.preview(shown)

    def _step(self, lane: _Lane, plan: Plan) -> bool:
        """Make a step of the chosen images; return false if that failed."""
        try:
            lane.runner.step(plan.riding, plan.rows)
        except DeviceLost:
            raise
        except Exception as error:
            memory = isinstance(error, OutOfMemory)
            log.warning(
                "a step of %d images failed, of requests %s: %s",
                len(plan.riding),
                _named(plan.riding),
                one_line(error),
            )
            if job := lane.scheduler.stumble(plan, memory=memory):
                self._fail(lane, job, "out of memory" if memory else f"{type(error).__name__}")
            return False
        self._ticks += 1
        self._rows += (used := sum(image.rows for image in plan.riding))
        self._padding += plan.rows - used
        self._expected += lane.costs.holding(plan.rows).seconds
        return True

    def _deliver(self, lane: _Lane) -> None:
        """Deliver decoded images; wait for them if no model has anything else to do."""
        if not lane.decoding:
            return
        for image, made in lane.runner.decoded(wait=not self._busy):
            lane.decoding -= 1
            if isinstance(made, str):
                self._fail(lane, image.job, made)
            elif lane.scheduler.deliver(image, made):
                job = image.job
                images = tuple(job.images[k] for k in range(job.params.n))
                self._end(lane, job, Done(job.id, images, time.perf_counter() - job.denoised))

    def _fail(self, lane: _Lane, job: Job, reason: str) -> None:
        if lane.scheduler.fail(job):
            self._end(lane, job, Failed(job.id, reason))

    def _end(self, lane: _Lane, job: Job, end: Done | Failed) -> None:
        """Report how a request ended, after all of its previews."""
        if job.previews:
            self._sketch(lane, wait=True)
            if previews := lane.sketched.pop(job.id, None):
                self._emit(Shown(job.id, previews))
        self._emit(end)

    def _sketch(self, lane: _Lane, *, wait: bool) -> None:
        """Take previews from the runner; `wait` for all of them."""
        for image, evaluation, pixels in lane.runner.previewed(wait=wait):
            shown = Preview(image.index, evaluation, image.job.params.evaluations, pixels)
            lane.sketched.setdefault(image.job.id, []).append(shown)

    def _report(self) -> None:
        """Report what was done, at intervals, and once more when all is done."""
        now = time.perf_counter()
        if self._busy and now - self._reported < _REPORT_SECONDS:
            return
        evaluations: dict[int, int] = {}
        previews: dict[int, list[Preview]] = {}
        for lane in self._lanes.values():
            evaluations |= lane.scheduler.evaluations
            self._sketch(lane, wait=False)
            previews |= lane.sketched
            lane.sketched.clear()
        self._emit(
            Progress(
                ticks=self._ticks - self._told,
                rows=self._rows,
                padding=self._padding,
                seconds=now - self._reported,
                expected=self._expected,
                running=sum(lane.scheduler.running for lane in self._lanes.values()),
                evaluations=evaluations,
                previews=previews,
            )
        )
        self._reset()

    def _reset(self) -> None:
        self._told = self._ticks
        self._rows = self._padding = 0
        self._expected = 0.0
        self._reported = time.perf_counter()

    def _emit(self, event: Event) -> None:
        # If this fails, the server is gone, and `orphaned` ends this process.
        with self._writing, contextlib.suppress(OSError):
            self._connection.sendall(pack(event))


def _reason(error: Exception) -> str:
    """Why a model does not load; for an unforeseen error, its kind as well."""
    told = isinstance(error, ValueError | OSError) and str(error)
    return told or f"{type(error).__name__}: {error}"


def _named(images: Sequence[Image]) -> str:
    """The ids of the requests that images are of."""
    ids = list(dict.fromkeys(image.job.asker.request_id for image in images))
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    return ", ".join(ids[:_MOST_NAMED]) + more


def main(load: Loader = load_runners) -> None:
    """Serve over the socket whose number is the first argument."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is the server that drains, and ends this
    logging.basicConfig(format="%(levelname)s:  engine: %(message)s", level=logging.INFO)
    connection = socket.socket(fileno=int(sys.argv[1]))
    Worker(connection, load, orphaned=lambda: os._exit(0)).run()


if __name__ == "__main__":
    main()
