"""One lane: a model at one image size. Its loop has three verbs: plan -> run -> deliver.

The worker drives several lanes in turn (lanes.py); `offline.draw`, tests and benchmarks drive one.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.engine.costs import Costs, is_long
from app.engine.errors import DeviceLost, OutOfMemory
from app.engine.job import Image, Job, Request
from app.engine.learning import Learning
from app.engine.model_runner import ModelRunner
from app.engine.results import Preview
from app.engine.scheduler import Plan, Scheduler
from app.engine.stopwatch import Stopwatch
from app.engine.text import one_line
from app.engine.wire import LaneProgress

log = logging.getLogger(__name__)

_EARLY = 0.75  # of a tick: what comes until then rides in the next, which is planned meanwhile
_MOST_NAMED = 16  # requests, in a line of the log
_NEWS = 0.02  # of a bucket's seconds: a smaller change of costs is not worth telling


@dataclass(frozen=True)
class Ended:
    """A request is done, or has failed for a `reason`; `previews` were not told yet."""

    job: Job
    reason: str | None
    previews: list[Preview]


@dataclass
class _Tally:
    """What was done since the last report; seconds of the device, by the costs that are known."""

    ticks: int = 0
    rows: int = 0
    padding: int = 0
    expected: float = 0.0
    seconds: float = 0.0  # by the clock, while there was something to do


class Lane:
    """The scheduler, the costs and the runner of a model at one size.

    One client alone has at most `slots` images in flight; `most` bounds the rows of a tick. The
    runner decides both if None.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        slots: int | None = None,
        most: int | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.id = runner.info.lane
        self.runner, self._most, self._clock = runner, most, clock
        self.scheduler = Scheduler(slots or runner.info.slots, runner.info.costs, most)
        self.decoding = 0  # images
        self.expected = 0.0  # seconds of the tick begun last
        self._learning, self._stopwatch = Learning(runner.info.costs), Stopwatch()
        self._told: Costs | None = None  # costs, at the last report
        self._sketched: dict[int, list[Preview]] = {}  # by job, not yet told
        self._tally = _Tally()
        self._since: float | None = None  # it is active, and counted so far

    @property
    def busy(self) -> bool:
        """Whether there is a step to make."""
        return self.scheduler.busy

    @property
    def active(self) -> bool:
        """Whether there is anything to do, or to wait for."""
        return self.scheduler.busy or self.decoding > 0

    @property
    def costs(self) -> Costs:
        """What ticks cost, as far as it is known."""
        return self._learning.costs

    @property
    def due(self) -> float:
        """When the next tick should be planned; time of the clock."""
        return self.runner.begun + _EARLY * self.expected

    def submit(self, job_id: int, request: Request) -> Job:
        """Take a request."""
        params = request.params
        rows = params.work / params.n
        long = is_long(self.costs, evaluations=params.evaluations, rows=rows)
        job = Job(job_id, request, long)
        self.runner.expect(params)
        self.scheduler.submit(job)
        self._count_time()
        return job

    def cancel(self, job_id: int) -> bool:
        """End a request that nobody waits for; false if there is none."""
        if not self.scheduler.cancel(job_id):
            return False
        self._stopwatch.disturb()  # the next tick may be long after
        return True

    def plan(self) -> Plan:
        """Who starts, and who makes the next step in what bucket."""
        return self.scheduler.plan(self._learning.trial(self.scheduler.wanted, self._most))

    def run(self, plan: Plan, *, alone: bool = True) -> list[Ended]:
        """Begin a tick, and to decode what has made its last step; the requests that failed.

        `alone` says that the device decodes nothing for another lane.
        """
        if unable := self._start(plan.admitted):
            return unable
        if self.decoding or not alone:
            self._stopwatch.disturb()
        if plan.riding and (failed := self._step(plan)) is not None:
            return failed
        if leaving := self.scheduler.advance(plan):
            now = self._clock()
            for image in leaving:
                image.job.denoised = now
            self.runner.decode(leaving)
            self.decoding += len(leaving)
        if shown := [image for image in plan.riding if image.evaluation in image.job.previews]:
            self.runner.preview(shown)
        if leaving or not plan.riding or not self.scheduler.busy:
            self._stopwatch.disturb()
        return []

    def deliver(self, *, wait: bool = False) -> list[Ended]:
        """Take what is decoded; the requests that ended with it. `wait` for it if any is begun."""
        ended = []
        if self.decoding:
            for image, made in self.runner.decoded(wait=wait):
                self.decoding -= 1
                if isinstance(made, str):
                    ended += self._fail(image.job, made)
                elif self.scheduler.deliver(image, made):
                    ended.append(self._end(image.job))
        if not self.active:
            self._count_time()
        return ended

    def settle(self) -> None:
        """Wait until the device has made the last step; another lane's tick may begin then."""
        self.runner.settle()
        self._learn(self._stopwatch.settle(self._clock()))

    def previews(self) -> dict[int, list[Preview]]:
        """The previews that came since the last call, by request."""
        self._sketch(wait=False)
        sketched, self._sketched = self._sketched, {}
        return sketched

    def progress(self) -> LaneProgress:
        """What was done since the last call; costs, if they are news."""
        self._count_time()
        tally, self._tally = self._tally, _Tally()
        news = None
        if self._told is None or _differ(self.costs, self._told):
            news = self._told = self.costs
        return LaneProgress(
            lane=self.id,
            ticks=tally.ticks,
            rows=tally.rows,
            padding=tally.padding,
            seconds=tally.seconds,
            expected=tally.expected,
            running=self.scheduler.running,
            costs=news,
        )

    def _start(self, images: Sequence[Image]) -> list[Ended]:
        """Let images begin; the requests that failed, after which another tick is to be planned."""
        failed = []
        for image in images:
            if image.job.ended:
                continue
            try:
                self.runner.start(image)
            except DeviceLost:
                raise
            except Exception as error:
                log.warning("request %s cannot begin: %s", _named([image]), one_line(error))
                failed += self._fail(image.job, _reason(error))
        return failed

    def _step(self, plan: Plan) -> list[Ended] | None:
        """Make a step of the chosen images; None if it was made, else the requests that failed."""
        asked = self._clock()
        try:
            self.runner.step(plan.riding, plan.rows)
        except DeviceLost:
            raise
        except Exception as error:
            self._stopwatch.disturb()
            memory = isinstance(error, OutOfMemory)
            log.warning(
                "a step of %d images failed, of requests %s: %s",
                len(plan.riding),
                _named(plan.riding),
                one_line(error),
            )
            job = self.scheduler.stumble(plan, memory=memory)
            return self._fail(job, _reason(error)) if job else []
        self.expected = self.costs.holding(plan.rows).seconds
        self._count(plan)
        self._learning.ran(plan.rows)
        # Not when `step` returned: some devices have made the whole step by then.
        self._learn(self._stopwatch.begin(plan.rows, asked, self.runner.begun))
        return None

    def _count(self, plan: Plan) -> None:
        """Count a tick that was begun."""
        tally, used = self._tally, sum(image.rows for image in plan.riding)
        tally.ticks += 1
        tally.rows += used
        tally.padding += plan.rows - used
        tally.expected += self.expected

    def _count_time(self) -> None:
        """Count the time since the last call, if there was something to do in it."""
        now = self._clock()
        if self._since is not None:
            self._tally.seconds += now - self._since
        self._since = now if self.active else None

    def _learn(self, known: tuple[int, float] | None) -> None:
        """Take what a tick took, if it is known."""
        if known and self._learning.learn(*known):
            self.scheduler.costs = self.costs

    def _fail(self, job: Job, reason: str) -> list[Ended]:
        return [self._end(job, reason)] if self.scheduler.fail(job) else []

    def _end(self, job: Job, reason: str | None = None) -> Ended:
        """How a request ended, with all of its previews that were not told."""
        if job.previews:
            self._sketch(wait=True)
        return Ended(job, reason, self._sketched.pop(job.id, []))

    def _sketch(self, *, wait: bool) -> None:
        """Take previews from the runner; `wait` for all of them."""
        for image, evaluation, pixels in self.runner.previewed(wait=wait):
            shown = Preview(image.index, evaluation, image.job.params.evaluations, pixels)
            self._sketched.setdefault(image.job.id, []).append(shown)


def _reason(error: Exception) -> str:
    """Why a request failed, as its client is told."""
    return "out of memory" if isinstance(error, OutOfMemory) else type(error).__name__


def _differ(ours: Costs, theirs: Costs) -> bool:
    """Whether two tables of the same buckets differ by more than what is not worth telling."""
    pairs = zip(ours.buckets, theirs.buckets, strict=True)
    return any(abs(a.seconds - b.seconds) > _NEWS * b.seconds for a, b in pairs)


def _named(images: Sequence[Image]) -> str:
    """The ids of the requests that images are of."""
    ids = list(dict.fromkeys(image.job.asker.request_id for image in images))
    more = f" and {len(ids) - _MOST_NAMED} more" if len(ids) > _MOST_NAMED else ""
    return ", ".join(ids[:_MOST_NAMED]) + more
