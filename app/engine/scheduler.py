"""Who rides the next tick. Policy alone: no tensors, standard library only.

One scheduler serves one model. It owns a fixed number of slots, each room for one image; a request
of n images takes n slots, one by one as they come free. A tick makes one step of the images it
carries, one row for each and two for those that are guided.

Who gets a slot: the image whose job came first, where a level of priority is worth `AGING` ticks.
So it is first come, first served inside a priority, and a low one waits a bounded time longer.
Who rides: the images that have waited longest for a step.

Images of more than `LONG` steps give way to short ones. They leave an eighth of the slots to
them, where a short image may pass long ones that wait. And while a short image is in flight, short
ones ride first, and the tick is kept to twice the time it would take for them alone; but a quarter
of its rows, and one image at least, are the long ones' own, so that they end as well.
"""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from app.engine.costs import Costs
from app.engine.job import LONG, Job, Pixels, Status

AGING = 200  # ticks
PATIENCE = 500  # ticks with fewer rows, after memory ran out, before more are tried again


@dataclass(eq=False)
class Image:
    """One image of a job: how many steps it has made, and the slot and tick of the last."""

    job: Job
    index: int
    key: tuple[int, int, int]  # orders the queue: (virtual arrival, job, image)
    step: int = 0
    slot: int = -1
    ridden: int = -1

    @property
    def rows(self) -> int:
        """UNet evaluations of its next step."""
        return self.job.params.rows(self.step)

    @property
    def long(self) -> bool:
        """Whether it gives way to short ones."""
        return self.job.params.steps > LONG

    def __lt__(self, other: "Image") -> bool:
        return self.key < other.key


@dataclass(frozen=True)
class Plan:
    """One tick: `admitted` images start, then the `riding` make a step in a bucket of `rows`."""

    admitted: tuple[Image, ...]
    riding: tuple[Image, ...]
    rows: int


class Scheduler:
    """Queue, slots and the state of every job of one model.

    `most` bounds the rows of a tick.
    """

    def __init__(self, slots: int, costs: Costs, most: int | None = None) -> None:
        self.slots, self._costs = slots, costs
        self._most = costs.best.rows if most is None else most
        self._cap, self._patience = self._most, 0
        self.jobs: dict[int, Job] = {}
        self._queues: dict[bool, list[Image]] = {False: [], True: []}  # heaps; long images apart
        self._running: dict[int, Image] = {}
        self._decoding: set[Image] = set()
        self._free = list(range(slots - 1, -1, -1))
        self.ticks = 0

    @property
    def busy(self) -> bool:
        """Whether the next tick has anything to do."""
        return bool(self._running or self._queues[False] or self._queues[True])

    @property
    def running(self) -> int:
        """Slots that are taken."""
        return len(self._running)

    @property
    def steps(self) -> dict[int, int]:
        """By job in flight, the steps its images have made, all together."""
        made: dict[int, int] = {}
        for image in (*self._running.values(), *self._decoding):
            job = image.job
            begun = made.get(job.id, len(job.images) * job.params.steps)
            made[job.id] = begun + image.step
        return made

    def submit(self, job: Job) -> None:
        """Queue every image of a job."""
        self.jobs[job.id] = job
        arrival = self.ticks - AGING * job.priority
        for index in range(job.params.n):
            image = Image(job, index, (arrival, job.id, index))
            heapq.heappush(self._queues[image.long], image)

    def plan(self) -> Plan:
        """Give free slots to those whose turn it is; say who rides and in what bucket."""
        admitted = []
        while image := self._next():
            image.slot = self._free.pop()
            self._running[image.slot] = image
            image.job.status = Status.RUNNING
            admitted.append(image)
        riding, rows = self._ride()
        return Plan(tuple(admitted), tuple(riding), rows)

    def advance(self, plan: Plan) -> tuple[Image, ...]:
        """Count the step that was made; those it finished leave their slots and want decoding."""
        self.ticks += 1
        finished = []
        for image in plan.riding:
            image.step += 1
            image.ridden = self.ticks
            if image.step == image.job.params.steps:
                self._release(image)
                self._decoding.add(image)
                finished.append(image)
        self._recover()
        return tuple(finished)

    def stumble(self, plan: Plan, *, memory: bool) -> Job | None:
        """The step was not made: halve what rides, and be patient where it was for memory.

        Returns the job to fail, where one image alone could not make its step.
        """
        self.ticks += 1  # time passes, though nobody moved
        if len(plan.riding) == 1:
            if not memory:
                self._cap, self._patience = self._most, 0
            return plan.riding[0].job
        ridden = sum(image.rows for image in plan.riding)
        self._cap = max(min(self._cap, ridden) // 2, 1)
        self._patience = PATIENCE if memory else max(self._patience, len(self._running) * 2)
        return None

    def deliver(self, image: Image, pixels: Pixels) -> bool:
        """Take a decoded image; true when it was its job's last. Ended jobs are ignored."""
        self._decoding.discard(image)
        job = image.job
        if job.ended:
            return False
        job.images[image.index] = pixels
        if len(job.images) < job.params.n:
            return False
        self._end(job, Status.DONE)
        return True

    def fail(self, job: Job) -> bool:
        """End a job that cannot be finished, wherever its images are; false if it had ended."""
        return self._drop(job.id, Status.FAILED)

    def cancel(self, job_id: int) -> bool:
        """End a job nobody waits for, wherever its images are; false if there is none."""
        return self._drop(job_id, Status.CANCELLED)

    def audit(self) -> None:
        """Check the ledger: every slot is free or taken, once; every job's images are somewhere.

        Raises:
            AssertionError: it does not add up.
        """
        assert sorted([*self._free, *self._running]) == list(range(self.slots)), "slots"
        assert all(image.slot == slot for slot, image in self._running.items()), "slot's owner"
        places = [*self._queues[False], *self._queues[True], *self._running.values()]
        places += self._decoding
        found = sorted((image.job.id, image.index) for image in places)
        made = [(job.id, index) for job in self.jobs.values() for index in job.images]
        owed = [(job.id, i) for job in self.jobs.values() for i in range(job.params.n)]
        assert sorted([*found, *made]) == sorted(owed), "an image is lost, or in two places"
        assert not any(job.ended for job in self.jobs.values()), "an ended job is kept"

    def _next(self) -> Image | None:
        """The image whose turn it is for a free slot, taken off its queue; None where none may."""
        kept = -(-self.slots // 8) if self.slots > 1 else 0
        heads = [queue[0] for queue in self._queues.values() if queue] if self._free else []
        held = sum(image.long for image in self._running.values())
        allowed = [head for head in heads if not head.long or held < self.slots - kept]
        if not allowed:
            return None
        return heapq.heappop(self._queues[min(allowed).long])

    def _ride(self) -> tuple[list[Image], int]:
        """Who makes a step now, and in a bucket of how many rows."""
        waiting = sorted(self._running.values(), key=lambda image: (image.ridden, image.key))
        if not waiting:
            return [], 0
        if self._cap == 1:  # so few rows that one image rides, whether it needs one or two
            waiting = waiting[:1]
        short = [image for image in waiting if not image.long]
        long = [image for image in waiting if image.long]
        total, most = sum(image.rows for image in waiting), self._cap
        least = short[0].rows + long[0].rows if short and long else 0
        if not 0 < least <= self._costs.buckets[-1].rows:
            least = max(image.rows for image in waiting)
            rows = self._costs.choose(total, least, most).rows
            return _fill(waiting, min(rows, max(most, least))), rows
        alone = self._costs.holding(min(sum(image.rows for image in short), most))
        most = min(self._costs.within(2 * alone.seconds, least).rows, max(most, least))
        rows = self._costs.choose(total, least, most).rows
        room = min(rows, most)
        first = _fill(short, room - max(room // 4, long[0].rows))
        return first + _fill(long, room - sum(image.rows for image in first)), rows

    def _recover(self) -> None:
        """After enough ticks with fewer rows, try twice as many."""
        if self._cap < self._most:
            self._patience -= 1
            if self._patience <= 0:
                self._cap, self._patience = min(self._cap * 2, self._most), PATIENCE

    def _drop(self, job_id: int, status: Status) -> bool:
        job = self.jobs.get(job_id)
        if job is None:
            return False
        for long, queue in self._queues.items():
            self._queues[long] = [image for image in queue if image.job is not job]
            heapq.heapify(self._queues[long])
        for image in [image for image in self._running.values() if image.job is job]:
            self._release(image)
        self._decoding = {image for image in self._decoding if image.job is not job}
        self._end(job, status)
        return True

    def _release(self, image: Image) -> None:
        del self._running[image.slot]
        self._free.append(image.slot)

    def _end(self, job: Job, status: Status) -> None:
        job.status = status
        del self.jobs[job.id]


def _fill(images: Iterable[Image], rows: int) -> list[Image]:
    """The first images that fit into `rows`, in order; one that does not fit lets others pass."""
    riding = []
    for image in images:
        if image.rows <= rows:
            riding.append(image)
            rows -= image.rows
    return riding
