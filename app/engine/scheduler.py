"""Who rides the next tick. Policy alone: no tensors, standard library only.

One scheduler serves one lane: a model at one size. It owns a fixed number of slots, each room for
one image; a request of n images takes n slots, one by one as they come free (queues.py says whose
turn it is). A tick evaluates the network for the images it carries: one row for each, and two for
those that are guided.

Who rides: the images that have waited longest for a step; where there are several clients, the
first of each, then the second of each, and so on, and of two that are equal the one whose client
has had less: so each has an equal part of the rows as far as it wants it.

Some ride before others: the images of light clients, who want no more than an equal part of a tick;
and of either kind the short ones before those that take long (costs.py). Meanwhile a tick is kept
to `SPARING` times what it would take for the first alone; but a quarter of its rows, and one image
at least, are the others' own, so that they end as well.

An image that made its last step keeps its slot until it is decoded, which takes time between ticks:
no more than `DECODED` a tick, and of other clients' one, while a light client is in flight.
"""

import math
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

from app.engine.costs import Costs
from app.engine.job import Image, Job, Status
from app.engine.queues import Queues
from app.engine.results import Pixels

PATIENCE = 5.0  # seconds of the device with fewer rows, after memory ran out, before more are tried
DECODED = 16  # at most this many images per tick: a block of the decoder
SPARING = 2  # times what a tick takes for those alone who ride first
_TRIAL = 3  # ticks of a bucket that is tried (learning.py), in which no image may end


@dataclass(frozen=True)
class Plan:
    """One tick: `admitted` images start, then the `riding` make a step in a bucket of `rows`."""

    admitted: tuple[Image, ...]
    riding: tuple[Image, ...]
    rows: int


class Scheduler:
    """Queues, slots and the state of every job of one lane.

    One client alone has `slots`; the reserve above that is for other clients (shares.py). `most`
    bounds the rows of a tick; by the best bucket if None. `costs` may be set anew between ticks.
    """

    def __init__(self, slots: int, costs: Costs, most: int | None = None) -> None:
        self.costs, self._most = costs, most
        self._memory: float = math.inf  # rows of a tick that there is memory for
        self._patience = 0.0
        self.jobs: dict[int, Job] = {}
        self._queues = Queues(slots)
        self._running: dict[int, Image] = {}
        self._made: list[Image] = []  # their last steps are made; they keep their slots
        self._decoding: set[Image] = set()
        self._had: dict[str, int] = {}  # rows, by client in flight, since there were several
        self._light: Set[str] = frozenset()  # clients who want few of the rows of a tick
        self._free = list(range(self._queues.slots.total - 1, -1, -1))
        self.ticks = 0
        self.clock = 0.0  # seconds of the device: what the ticks so far should have taken

    @property
    def busy(self) -> bool:
        """Whether the next tick has anything to do."""
        return bool(self._running or self._made or self._queues)

    @property
    def wanted(self) -> int:
        """Rows of the next evaluation of every image that has a slot."""
        return sum(image.rows for image in self._running.values())

    @property
    def running(self) -> int:
        """Slots that are taken."""
        return len(self._running) + len(self._made)

    @property
    def evaluations(self) -> dict[int, int]:
        """By job in flight, the evaluations its images have had, all together."""
        made: dict[int, int] = {}
        for image in (*self._running.values(), *self._made, *self._decoding):
            job = image.job
            begun = made.get(job.id, len(job.images) * job.params.evaluations)
            made[job.id] = begun + image.evaluation
        return made

    def submit(self, job: Job) -> None:
        """Queue every image of a job."""
        self.jobs[job.id] = job
        self._queues.put(job, self.clock)

    def plan(self, trial: int = 0) -> Plan:
        """Give free slots to those whose turn it is; say who rides and in what bucket.

        The bucket of `trial` rows is taken if there is enough to fill it and it holds up nobody.
        """
        admitted = []
        while image := self._queues.take(self.clock):
            image.slot = self._free.pop()
            self._running[image.slot] = image
            image.job.status = Status.RUNNING
            admitted.append(image)
        riding, rows = self._ride(trial)
        return Plan(tuple(admitted), tuple(riding), rows)

    def advance(self, plan: Plan) -> tuple[Image, ...]:
        """Count the step that was made; those that leave their slots now, to be decoded."""
        seconds = self._pass(plan)
        for image in plan.riding:
            if self._had:
                self._had[image.job.asker.client] += image.rows
            image.evaluation += 1
            image.ridden = self.ticks
            if image.evaluation == image.job.params.evaluations:
                self._made.append(self._running.pop(image.slot))
        self._recover(seconds)
        return self._leave()

    def stumble(self, plan: Plan, *, memory: bool) -> Job | None:
        """The step was not made: halve what rides, and be patient where it was for memory.

        Returns the job to fail, if a single image could not make its step.
        """
        self._pass(plan)  # time passes, though nobody moved
        if len(plan.riding) == 1:
            if not memory:
                self._memory, self._patience = math.inf, 0.0
            return plan.riding[0].job
        ridden = sum(image.rows for image in plan.riding)
        self._memory = max(min(self._cap, ridden) // 2, 1)
        # Two ticks per image are enough to find the one for which a step is not made.
        search = 2 * len(self._running) * self.costs.holding(self._cap).seconds
        self._patience = PATIENCE if memory else max(self._patience, search)
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
        slots = self._queues.slots
        taken = [*self._running, *(image.slot for image in self._made)]
        assert sorted([*self._free, *taken]) == list(range(slots.total)), "slots"
        assert all(image.slot == slot for slot, image in self._running.items()), "slot's owner"
        holders = [*self._running.values(), *self._made]
        assert Counter(image.job.asker.client for image in holders) == slots.by_client, "shares"
        places = (*holders, *self._decoding)
        found = [(image.job.id, image.index) for image in places]
        found += [(job.id, k) for job in self._queues for k in range(job.begun, job.params.n)]
        made = [(job.id, index) for job in self.jobs.values() for index in job.images]
        owed = [(job.id, i) for job in self.jobs.values() for i in range(job.params.n)]
        assert sorted([*found, *made]) == sorted(owed), "an image is lost, or in two places"
        assert not any(job.ended for job in self.jobs.values()), "an ended job is kept"

    @property
    def _cap(self) -> int:
        """The most rows that a tick may have now."""
        most = self.costs.best.rows if self._most is None else self._most
        return int(min(self._memory, most))

    def _pass(self, plan: Plan) -> float:
        """Count a tick; its seconds."""
        seconds = self.costs.holding(plan.rows).seconds if plan.riding else 0.0
        self.ticks += 1
        self.clock += seconds
        return seconds

    def _ride(self, trial: int) -> tuple[list[Image], int]:
        """Who makes a step now, and in a bucket of how many rows."""
        waiting, self._light = self._in_turn()
        if not waiting:
            return [], 0
        if self._cap == 1:  # so few rows that one image rides, whether it needs one or two
            waiting = waiting[:1]
        wanted = [image.rows for image in waiting]
        groups = self._groups(waiting, self._light)
        if trial and len(groups) == 1 and trial <= min(sum(wanted), self._memory):
            riding = _share(groups, trial)
            if riding and not self._made and all(image.left > _TRIAL for image in riding):
                return riding, trial
        least = sum(group[0].rows for group in groups) if len(groups) > 1 else max(wanted)
        most = max(self._cap, least)
        if len(groups) > 1:
            first = self.costs.holding(min(sum(image.rows for image in groups[0]), self._cap))
            most = min(self.costs.within(SPARING * first.seconds, least).rows, most)
        rows = self.costs.choose(sum(wanted), least, most).rows
        return _share(groups, min(rows, most)), rows

    def _in_turn(self) -> tuple[list[Image], Set[str]]:
        """The images in flight in the order of their turns; the clients that are light."""
        waiting = sorted(self._running.values(), key=lambda image: (image.ridden, image.key))
        if self._queues.slots.clients < 2:
            self._had = {}
            return waiting, frozenset()
        rows: Counter[str] = Counter()  # that a client wants
        before = []  # of each image, the rows of its client that come first
        for image in waiting:
            client = image.job.asker.client
            before.append(rows[client])
            rows[client] += image.rows
        wanted = rows + Counter(
            image.job.asker.client for image in self._made
        )  # those have slots, too
        least = min((had for client, had in self._had.items() if client in rows), default=0)
        self._had = {client: self._had.get(client, least) for client in rows}
        turns = [
            (come, self._had[image.job.asker.client], k)
            for k, (come, image) in enumerate(zip(before, waiting, strict=True))
        ]
        light = {client for client, much in wanted.items() if much * len(wanted) <= self._cap}
        return [waiting[k] for *_, k in sorted(turns)], light

    def _groups(self, waiting: Sequence[Image], light: Set[str]) -> Sequence[Sequence[Image]]:
        """Those that ride first, then those that give way, as far as a tick has room for all."""
        split: tuple[list[Image], ...] = ([], [], [], [])
        for image in waiting:
            split[2 * (image.job.asker.client not in light) + image.long].append(image)
        groups = [group for group in split if group]
        least = sum(group[0].rows for group in groups)
        if len(groups) > 1 and least > self._cap:
            if light:  # turns are enough
                return self._groups(waiting, frozenset())
            if least > self.costs.buckets[-1].rows:
                return [waiting]
        return groups

    def _leave(self) -> tuple[Image, ...]:
        """Who is decoded now, and has no slot any more."""
        few = [image for image in self._made if image.job.asker.client in self._light]
        many = [image for image in self._made if image.job.asker.client not in self._light]
        leaving = [*few, *many[: 1 if self._light else DECODED]][:DECODED]
        if not (self._running or self._queues):  # no tick has to wait for it
            leaving = [*few, *many]
        for image in leaving:
            self._made.remove(image)
            self._release(image)
            self._decoding.add(image)
        return tuple(leaving)

    def _recover(self, seconds: float) -> None:
        """After enough time with fewer rows, try twice as many."""
        if self._memory < math.inf:
            self._patience -= seconds
            if self._patience <= 0:
                self._memory, self._patience = 2 * self._memory, PATIENCE
                if self._memory >= self.costs.buckets[-1].rows:
                    self._memory = math.inf

    def _drop(self, job_id: int, status: Status) -> bool:
        job = self.jobs.get(job_id)
        if job is None:
            return False
        self._queues.drop(job)
        for image in [image for image in self._running.values() if image.job is job]:
            self._release(self._running.pop(image.slot))
        for image in [image for image in self._made if image.job is job]:
            self._made.remove(image)
            self._release(image)
        self._decoding = {image for image in self._decoding if image.job is not job}
        self._end(job, status)
        return True

    def _release(self, image: Image) -> None:
        self._free.append(image.slot)
        self._queues.leave(image)

    def _end(self, job: Job, status: Status) -> None:
        job.status = status
        del self.jobs[job.id]


def _share(groups: Sequence[Sequence[Image]], room: int) -> list[Image]:
    """Who rides, in order; an image that does not fit lets others of its group pass.

    A group leaves a quarter of the rows, and room for one image of each client, to those after it.
    """
    riding = []
    for number, group in enumerate(groups, start=1):
        others = groups[number:]
        kept = max(room // 4, sum(other[0].rows for other in others)) if others else 0
        for image in group:
            if (rows := image.rows) <= room - kept:
                riding.append(image)
                room -= rows
    return riding
