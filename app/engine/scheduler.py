"""Who rides the next step. Policy alone: no tensors, standard library only.

One scheduler serves one model. It owns a fixed number of slots, each room for one image; a request
of n images takes n slots, one by one as they come free, first come first served. Every image that
holds a slot advances one step a tick, so a short request is never held up by a long one's length.
"""

from collections import deque
from dataclasses import dataclass

from app.engine.job import Job, Pixels, Status


@dataclass
class Slot:
    """Room for one image: which image of which job, and how many steps it has made."""

    index: int
    job: Job
    image: int
    step: int = 0

    @property
    def finished(self) -> bool:
        """Whether the image only wants decoding."""
        return self.step == self.job.params.steps


@dataclass(frozen=True)
class Plan:
    """One tick: `admitted` slots start, then `riding` slots (these included) make a step."""

    admitted: tuple[Slot, ...]
    riding: tuple[Slot, ...]


class Scheduler:
    """Queue, slots and the state of every job of one model."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.jobs: dict[int, Job] = {}
        self._waiting: deque[tuple[Job, int]] = deque()  # (job, image), in order of arrival
        self._running: dict[int, Slot] = {}
        self._free = list(range(capacity - 1, -1, -1))

    @property
    def busy(self) -> bool:
        """Whether the next tick has anything to do."""
        return bool(self._waiting or self._running)

    def submit(self, job: Job) -> None:
        """Queue every image of a job."""
        self.jobs[job.id] = job
        self._waiting.extend((job, image) for image in range(job.params.n))

    def plan(self) -> Plan:
        """Give free slots to the images that waited longest; say who rides."""
        admitted = []
        while self._free and self._waiting:
            job, image = self._waiting.popleft()
            slot = Slot(self._free.pop(), job, image)
            self._running[slot.index] = slot
            job.status = Status.RUNNING
            admitted.append(slot)
        return Plan(tuple(admitted), tuple(self._running.values()))

    def advance(self, plan: Plan) -> tuple[Slot, ...]:
        """Count the step that was made; return the slots whose images are finished."""
        for slot in plan.riding:
            slot.step += 1
        return tuple(slot for slot in plan.riding if slot.finished)

    def deliver(self, slot: Slot, pixels: Pixels) -> bool:
        """Take a finished image and free its slot; true when it was the job's last."""
        job = slot.job
        job.images[slot.image] = pixels
        self._release(slot)
        if len(job.images) < job.params.n:
            return False
        self._end(job, Status.DONE)
        return True

    def fail(self, job: Job) -> tuple[Slot, ...]:
        """End a job that cannot be finished; return the slots it gave back."""
        return self._drop(job, Status.FAILED)

    def cancel(self, job_id: int) -> tuple[Slot, ...]:
        """End a job nobody waits for; return the slots it gave back. Unknown ids are ignored."""
        job = self.jobs.get(job_id)
        return () if job is None else self._drop(job, Status.CANCELLED)

    def audit(self) -> None:
        """Check the ledger: every slot is free or running, once.

        Raises:
            AssertionError: it does not add up.
        """
        assert sorted([*self._free, *self._running]) == list(range(self.capacity))
        held = {slot.job.id for slot in self._running.values()}
        queued = {job.id for job, _ in self._waiting}
        assert held | queued == set(self.jobs), "a job neither waits nor runs"
        assert not any(job.ended for job in self.jobs.values())

    def _drop(self, job: Job, status: Status) -> tuple[Slot, ...]:
        self._waiting = deque(entry for entry in self._waiting if entry[0] is not job)
        slots = tuple(slot for slot in self._running.values() if slot.job is job)
        for slot in slots:
            self._release(slot)
        self._end(job, status)
        return slots

    def _release(self, slot: Slot) -> None:
        del self._running[slot.index]
        self._free.append(slot.index)

    def _end(self, job: Job, status: Status) -> None:
        job.status = status
        del self.jobs[job.id]
