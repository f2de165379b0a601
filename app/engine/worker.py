"""The worker process: it receives requests, and its lanes plan, run and deliver.

The server (supervisor.py) starts it with a socket to talk over. When the socket closes, the server
is gone, and the worker ends.
"""

import contextlib
import gc
import importlib
import logging
import os
import queue
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from app.engine.errors import DeviceLost
from app.engine.lane import Ended
from app.engine.lanes import Lanes
from app.engine.lines import JsonLines, PlainLines
from app.engine.model_runner import ModelRunner
from app.engine.results import Preview
from app.engine.sender import Sender
from app.engine.turnstile import Turnstile
from app.engine.wire import (
    Admitted,
    Cancel,
    Cancelled,
    Command,
    Done,
    Failed,
    LeftOut,
    Load,
    Progress,
    Ready,
    Shown,
    Stop,
    Submit,
    read_command,
)
from models.hub import SCHEME
from models.library import find

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.002  # between looks whether something was decoded, while a tick runs beside it
_SOON_SECONDS = 0.0005  # the same where nothing else is to be done: a digit takes 1.4 ms
_REPORT_SECONDS = 0.2  # every client that follows is woken by each: they cost a few percent


Loader = Callable[[Load], list[ModelRunner]]


def load_runners(load: Load) -> list[ModelRunner]:
    """Open every model that `load` names; they are not warm."""
    from app.engine.runner import Runner  # PyTorch is imported where it is used, and only there

    return [Runner.open(name, Path(folder), load) for name, folder in load.models.items()]


class Worker:
    """The loop over the lanes of the models that are loaded.

    `load` is called for one model at a time. `orphaned` is called from a separate thread when the
    server is gone, or cannot be understood.
    """

    def __init__(
        self, connection: socket.socket, load: Loader, orphaned: Callable[[], None]
    ) -> None:
        self._connection, self._load, self._orphaned = connection, load, orphaned
        self._server = Sender(connection)
        self._inbox: queue.SimpleQueue[tuple[Command, int]] = queue.SimpleQueue()
        self._lanes = Lanes()
        self._turnstile: Turnstile  # from `run` on
        self.leave: Callable[[], None] = lambda: None  # let go of the device; from any thread
        self._reported = 0.0  # when progress was; time.perf_counter()
        self._waited = 0.0  # for turns on the device, until then

    def run(self) -> None:
        """Load, then serve until `Stop`."""
        load = read_command(self._connection)
        if not isinstance(load, Load):
            return
        with contextlib.closing(Turnstile(load.turnstile)) as self._turnstile:
            self.leave = self._turnstile.leave
            self._serve(load)

    def _serve(self, load: Load) -> None:
        turn = self._turnstile.turn
        self._lanes = Lanes(slots=load.slots, most=load.rows, sizes=load.sizes, turn=turn)
        threading.Thread(target=self._listen, name="inbox", daemon=True).start()
        self._open(load)
        if not self._lanes:
            return
        gc.freeze()  # what is loaded stays, so garbage collection need not search it
        self._server.emit(Ready(tuple(lane.runner.info for lane in self._lanes)))
        while self._receive():
            self._make_lanes()
            if self._has_turn():
                self._tick()
            self._deliver()
            self._report()

    def stop(self) -> None:
        """End after the current tick; from any thread."""
        self._inbox.put((Stop(), self._lanes.ticks))

    def _listen(self) -> None:
        """Put commands into the inbox as they come, each with the tick it came in."""
        try:
            while (command := read_command(self._connection)) is not None:
                self._inbox.put((command, self._lanes.ticks))
        except Exception:
            log.exception("the server's message cannot be read; this worker ends")
        self._orphaned()

    def _open(self, load: Load) -> None:
        """Load one model after the other; leave out those that do not load."""
        with self._server.signs_of_life() as opening:
            for name, place in load.models.items():
                found = place
                try:
                    opening(name, waiting=True)
                    if place.startswith(SCHEME):
                        found = str(find(place))
                    with self._turnstile.loading():
                        opening(name)
                        runners = self._load(msgspec.structs.replace(load, models={name: found}))
                        for runner in runners:
                            runner.warm_up(turn=self._turnstile.turn)
                except DeviceLost:  # another process may load it
                    raise
                except Exception as error:  # the server reports every failure to load
                    self._server.emit(LeftOut(name, _reason(error).replace(found, place)))
                    continue
                for runner in runners:
                    self._lanes.add(runner)

    def _receive(self) -> bool:
        """Take the commands that come until the next tick is due; false at `Stop`.

        Where there is nothing to do, wait for one.
        """
        waited_for = self._lanes.missing() is not None
        idle = not (waited_for or self._lanes.busy or self._lanes.decoding)
        if idle:
            self._lanes.rest()
            self._turnstile.give()
        while (received := self._inbox.get() if idle else self._before_due()) is not None:
            if idle:  # idle time does not count as slowness
                idle = False
                self._begin_report()
            command, came = received
            if isinstance(command, Stop):
                return False
            if isinstance(command, Submit):
                self._lanes.submit(command.job_id, command.request)
            elif isinstance(command, Cancel) and self._lanes.cancel(command.job_id):
                self._server.emit(Cancelled(command.job_id, self._lanes.ticks - came))
        return True

    def _before_due(self) -> tuple[Command, int] | None:
        """The next command that comes before the next tick is due; delivers meanwhile.

        Without a turn on the device, that is until it is to be asked for; with no tick to make,
        until all is decoded.
        """
        lanes = self._lanes
        while lanes.busy or lanes.decoding:
            left = self._left() if lanes.busy else _SOON_SECONDS
            if left <= 0:
                break
            with contextlib.suppress(queue.Empty):
                return self._inbox.get(timeout=min(left, _POLL_SECONDS) if lanes.decoding else left)
            self._deliver()
            self._give_way()
        with contextlib.suppress(queue.Empty):
            return self._inbox.get_nowait()
        return None

    def _left(self) -> float:
        """Seconds until the next tick should be planned, or the turn be asked for."""
        if self._turnstile.held:
            return self._lanes.due - time.perf_counter()
        return self._turnstile.again - time.monotonic()

    def _has_turn(self) -> bool:
        """Whether there is a step to make, and the device is this worker's."""
        self._give_way()
        return self._lanes.busy and self._turnstile.take(self._lanes.slowest)

    def _give_way(self) -> None:
        """Let another worker have the device, if it is its turn or no step is to be made here."""
        turnstile = self._turnstile
        if turnstile.held and (turnstile.due if self._lanes.busy else turnstile.wanted):
            self._lanes.settle()
            turnstile.give()

    def _make_lanes(self) -> None:
        """Make a lane that requests wait for, if there is room; others come after a tick."""
        if wanted := self._lanes.missing():
            self._lanes.settle()
            self._turnstile.give()
            # If this kills the worker, it was for these.
            self._server.emit(Admitted(tuple(self._lanes.waiting_for(wanted))))
            with self._server.signs_of_life() as opening:
                opening(wanted.model)
                failed = self._lanes.open(wanted)
            for job_id, reason in failed:
                self._server.emit(Failed(job_id, reason))
            self._begin_report()  # that time is not slowness of ticks
            self._report(due=True)  # how long its first tick may take

    def _tick(self) -> None:
        """One tick of the lane whose turn it is."""
        lane = self._lanes.next()
        if lane is None:
            return
        plan = lane.plan()
        if plan.admitted:
            self._server.emit(Admitted(tuple({image.job.id: None for image in plan.admitted})))
        self._end(lane.run(plan, alone=self._lanes.alone(lane)))

    def _deliver(self) -> None:
        """Deliver the images that are decoded, of all lanes."""
        for lane in self._lanes:
            self._end(lane.deliver())

    def _end(self, ended: Iterable[Ended]) -> None:
        """Report how requests ended, each after all of its previews."""
        for end in ended:
            job = end.job
            if end.previews:
                self._server.emit(Shown(job.id, end.previews))
            if end.reason is not None:
                self._server.emit(Failed(job.id, end.reason))
            else:
                images = tuple(job.images[k] for k in range(job.params.n))
                decoding = time.perf_counter() - job.denoised
                self._server.emit(Done(job.id, images, decoding, job.cut))

    def _report(self, *, due: bool = False) -> None:
        """Report what was done, at intervals, and once more when all is done."""
        now = time.perf_counter()
        if self._lanes.busy and now - self._reported < _REPORT_SECONDS and not due:
            return
        evaluations: dict[int, int] = {}
        previews: dict[int, list[Preview]] = {}
        for lane in self._lanes:
            evaluations |= lane.scheduler.evaluations
            previews |= lane.previews()
        progress = tuple(lane.progress() for lane in self._lanes)
        seconds = max(now - self._reported - (self._turnstile.waited - self._waited), 0.0)
        self._server.emit(Progress(seconds, progress, evaluations, previews))
        self._begin_report()

    def _begin_report(self) -> None:
        """The time until now is not a part of the next report."""
        self._reported, self._waited = time.perf_counter(), self._turnstile.waited


def _reason(error: Exception) -> str:
    """Why a model does not load; for an unforeseen error, its kind as well."""
    told = isinstance(error, ValueError | OSError) and str(error)
    return told or f"{type(error).__name__}: {error}"


def log_as(form: str) -> None:
    """Write the log to stderr, in a `LogFormat`."""
    text = PlainLines("%(levelname)s:  engine: %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if form == "json" else text)
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    logging.captureWarnings(form == "json")


def _import_runner() -> None:
    """Import PyTorch before it is this worker's turn to load.

    Modules are no garbage: to look for some meanwhile would take a sixth of the time.
    """
    gc.disable()
    with contextlib.suppress(ImportError):  # raised once more where it is needed
        importlib.import_module("app.engine.runner")
    gc.enable()


def main(load: Loader = load_runners) -> None:
    """Serve over the socket whose number is the first argument; the second is a `LogFormat`."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is the server that drains, and ends this
    log_as(sys.argv[2])
    for client in ("httpx", "httpx2"):  # each address that huggingface_hub asks, signed ones too
        logging.getLogger(client).setLevel(logging.WARNING)
    threading.Thread(target=_import_runner, name="import", daemon=True).start()
    connection = socket.socket(fileno=int(sys.argv[1]))
    Worker(connection, load, orphaned=lambda: os._exit(0)).run()


if __name__ == "__main__":
    main()
