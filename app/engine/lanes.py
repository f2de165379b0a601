"""The lanes of a worker: whose tick is next, and which sizes have one.

A lane of the model's own size is made at the start and stays. Others are made when they are first
asked for, up to a number per model; then the one that has been idle longest is dropped for a new
one. While all are busy, requests for a new size wait, and those that come later for any size but
the model's own wait behind them: so a lane comes to be idle.
"""

import gc
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from app.engine.errors import DeviceLost, OutOfMemory
from app.engine.job import Request
from app.engine.lane import Lane
from app.engine.model_info import LaneId
from app.engine.model_runner import ModelRunner
from app.engine.text import one_line
from app.engine.turns import Turns
from app.engine.turnstile import Turn

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Lack:
    """Why a lane was not made."""

    reason: str
    of_memory: bool


class Lanes:
    """All lanes of one worker, of which one makes a tick at a time.

    `slots` and `most` are those of each lane; there are at most `sizes` lanes per model. `turn` is
    what new lanes are measured with.
    """

    def __init__(
        self,
        *,
        slots: int | None = None,
        most: int | None = None,
        sizes: int = 4,
        turn: Turn = nullcontext,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._slots, self._most, self._sizes, self._clock = slots, most, sizes, clock
        self._turn = turn
        self._lanes: dict[LaneId, Lane] = {}  # the longest unused of each model's sizes first
        self._own: dict[str, Lane] = {}  # by model, that of its own size
        self._waiting: dict[str, deque[tuple[int, Request]]] = {}  # for a lane, by model
        self._turns = Turns[LaneId]()
        self._current: Lane | None = None  # whose tick was begun last
        self._began = 0.0  # when that was
        self.ticks = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def __bool__(self) -> bool:
        return bool(self._lanes)

    @property
    def busy(self) -> bool:
        """Whether there is a step to make."""
        return any(lane.busy for lane in self._lanes.values())

    @property
    def decoding(self) -> bool:
        """Whether images are being decoded."""
        return any(lane.decoding for lane in self._lanes.values())

    @property
    def due(self) -> float:
        """When the next tick should be planned, of whatever lane; time of the clock."""
        return self._current.due if self._current else 0.0

    @property
    def slowest(self) -> float:
        """Seconds that the slowest tick of all lanes should take."""
        return max(lane.costs.buckets[-1].seconds for lane in self._lanes.values())

    def add(self, runner: ModelRunner) -> None:
        """A model at its own size."""
        lane = self._add(runner)
        self._own[lane.id.model] = lane

    def submit(self, job_id: int, request: Request) -> None:
        """Give a request to its lane, or let it wait for one."""
        lane, model = self._lanes.get(request.params.lane), request.params.model
        if lane and (lane is self._own[model] or model not in self._waiting):
            self._use(lane)
            lane.submit(job_id, request)
        else:
            self._waiting.setdefault(model, deque()).append((job_id, request))

    def cancel(self, job_id: int) -> bool:
        """End a request that nobody waits for, wherever it is; false if there is none."""
        if any(lane.cancel(job_id) for lane in self._lanes.values()):
            return True
        return any(self._drop_waiting(lambda number, _: number == job_id))

    def next(self) -> Lane | None:
        """The lane whose tick is next, once the device is done with any other; None if none is."""
        self._account()
        busy = [lane.id for lane in self._lanes.values() if lane.busy]
        if not busy:
            return None
        lane = self._lanes[self._turns.next(busy)]
        if lane is not self._current:
            self.settle()
        self._current, self._began = lane, self._clock()
        self.ticks += 1
        return lane

    def rest(self) -> None:
        """Note that there is nothing to do: the time until there is, is nobody's."""
        if self._current and not self.busy:
            self._current.settle()  # a step of somebody who left may still be under way
            self._turns.used(self._current.id, self._current.expected)
            self._current = None

    def settle(self) -> None:
        """Wait for the tick of the current lane, at its expense; decoding may go on."""
        if self._current:
            self._current.settle()
            self._account()
            self._current = None

    def alone(self, lane: Lane) -> bool:
        """Whether nothing is decoded for another lane."""
        return not any(other.decoding for other in self._lanes.values() if other is not lane)

    def missing(self) -> LaneId | None:
        """A lane that is waited for, and for which there is room now.

        Requests that wait and have a lane by now are given to it.
        """
        for model, waiting in list(self._waiting.items()):
            while waiting and (lane := self._lanes.get(waiting[0][1].params.lane)):
                self._use(lane)
                lane.submit(*waiting.popleft())
            if not waiting:
                del self._waiting[model]
            elif self._has_room(model):
                return waiting[0][1].params.lane
        return None

    def waiting_for(self, wanted: LaneId) -> Sequence[int]:
        """The requests that wait for a lane."""
        waiting = self._waiting.get(wanted.model, ())
        return [number for number, request in waiting if request.params.lane == wanted]

    def open(self, wanted: LaneId) -> list[tuple[int, str]]:
        """Make a lane; if that fails, the requests that waited for it, and why.

        Where memory does not suffice, idle lanes are dropped first. Takes as long as a warm-up.
        """
        self.settle()
        while isinstance(made := self._make(wanted), _Lack):
            if not (made.of_memory and self._drop_idle()):
                size = f"{wanted.width}x{wanted.height}"
                log.warning("no lane for %s at %s: %s", wanted.model, size, made.reason)
                reason = f"no images of {size} can be made: {made.reason}"
                return [(job, reason) for job in self._drop_waiting(_for(wanted))]
        self._add(made)
        return []

    def _make(self, wanted: LaneId) -> "ModelRunner | _Lack":
        """A warm runner; if that fails, nothing of it stays in memory."""
        try:
            runner = self._own[wanted.model].runner.at(wanted.width, wanted.height)
            runner.warm_up(turn=self._turn)
        except DeviceLost:
            raise
        except Exception as error:
            return _Lack(one_line(error), _of_memory(error))
        return runner

    def _add(self, runner: ModelRunner) -> Lane:
        lane = Lane(runner, slots=self._slots, most=self._most, clock=self._clock)
        self._lanes[lane.id] = lane
        return lane

    def _use(self, lane: Lane) -> None:
        """Note that a lane was asked for: it is the last to be dropped."""
        self._lanes[lane.id] = self._lanes.pop(lane.id)

    def _account(self) -> None:
        """Charge the current lane with the time since its last tick began."""
        if self._current:
            now = self._clock()
            self._turns.used(self._current.id, now - self._began)
            self._began = now

    def _has_room(self, model: str) -> bool:
        """Whether a model may have another lane; drops an idle one for it."""
        lanes = sum(lane.id.model == model for lane in self._lanes.values())
        return lanes < self._sizes or self._drop_idle(model)

    def _drop_idle(self, model: str | None = None) -> bool:
        """Drop the lane that has been idle longest, of a model if one is named; false if none."""
        own = self._own.values()
        idle = [lane for lane in self._lanes.values() if not lane.active and lane not in own]
        idle = [lane for lane in idle if model in (None, lane.id.model)]
        if not idle:
            return False
        if idle[0] is self._current:
            self.settle()
        self._turns.forget(idle[0].id)
        del self._lanes[idle[0].id]
        idle.clear()
        gc.collect()  # its tensors, before others are made
        return True

    def _drop_waiting(self, which: Callable[[int, Request], bool]) -> list[int]:
        """Take requests out of those that wait for a lane; their jobs' numbers."""
        dropped = []
        for model, waiting in list(self._waiting.items()):
            dropped += [number for number, request in waiting if which(number, request)]
            kept = deque(each for each in waiting if not which(*each))
            if kept:
                self._waiting[model] = kept
            else:
                del self._waiting[model]
        return dropped


def _for(wanted: LaneId) -> Callable[[int, Request], bool]:
    """Whether a request is for this lane."""
    return lambda _, request: request.params.lane == wanted


def _of_memory(error: BaseException | None) -> bool:
    """Whether an error is about memory, or was caused by one that is."""
    return error is not None and (
        isinstance(error, OutOfMemory | MemoryError) or _of_memory(error.__cause__)
    )
