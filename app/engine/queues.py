"""Who gets the next slot. Only policy: no tensors, standard library only.

Every client has its own queues. Within one client it is first come, first served, and one level of
priority is worth `AGING` seconds, so a low priority waits a bounded time longer. Between clients
the highest level comes first, then the client that holds the fewest slots, then the one that has
waited longest. A client that got no slot for `AGING` seconds goes up one level, so each has its
turn.

Time is the device's: the seconds of the ticks that were made for this queue. So a level is worth as
much of a slow model's time as of a fast one's.

Nobody may hold more than their share of the slots (shares.py). Long images have no more than seven
eighths of it, so that a short image may pass long ones that wait.
"""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from app.engine.job import Image, Job
from app.engine.shares import Shares

AGING = 2.0  # seconds of the device: about 200 ticks of 16 rows of the digits on two cores

Head = tuple[float, int, Job]  # virtual arrival, id, job


@dataclass
class _Queue:
    """Jobs of one client with images that wait, as heaps."""

    since: float = 0.0  # it has waited since its head came, or since this: just after its last slot
    heaps: dict[bool, list[Head]] = field(
        default_factory=lambda: {False: [], True: []}  # long ones apart
    )


class Queues:
    """Images that wait for a slot, by client, and how many slots each client holds."""

    def __init__(self, slots: int) -> None:
        kept = -(-slots // 8) if slots > 1 else 0
        self.slots, self._long = Shares(slots), Shares(slots - kept)
        self._queues: dict[str, _Queue] = {}

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __iter__(self) -> Iterator[Job]:
        """Every job with images that wait."""
        for queue in self._queues.values():
            for heap in queue.heaps.values():
                yield from (job for *_, job in heap)

    def put(self, job: Job, now: float) -> None:
        """Let every image of a job wait; `now` is in seconds of the device."""
        queue = self._queues.setdefault(job.asker.client, _Queue())
        heapq.heappush(queue.heaps[job.long], (now - AGING * job.request.priority, job.id, job))

    def take(self, now: float) -> Image | None:
        """Give a slot to the image whose turn it is, and return it; None if none may have one."""
        if self.slots.taken == self.slots.total:
            return None
        turns = [
            (self._turn(client, queue, head, now), head)
            for client, queue in self._queues.items()
            if (head := self._head(client, queue))
        ]
        if not turns:
            return None
        _, (arrival, _, job) = min(turns)
        image = Image(job, job.begun, (arrival, job.id, job.begun))
        job.begun += 1
        self._hold(image, 1)
        queue = self._queues[job.asker.client]
        queue.since = math.nextafter(now, math.inf)  # after those who have come by now
        if job.begun == job.params.n:
            heapq.heappop(queue.heaps[job.long])
            self._tidy(job.asker.client)
        return image

    def leave(self, image: Image) -> None:
        """Take a slot back from an image."""
        self._hold(image, -1)

    def drop(self, job: Job) -> None:
        """Let no image of a job wait any more."""
        if queue := self._queues.get(job.asker.client):
            queue.heaps[job.long] = [
                entry for entry in queue.heaps[job.long] if entry[2] is not job
            ]
            heapq.heapify(queue.heaps[job.long])
            self._tidy(job.asker.client)

    def _head(self, client: str, queue: _Queue) -> Head | None:
        """The next image of a client, if its share allows another slot."""
        if not self.slots.fits(client):
            return None
        heads = [heap[0] for heap in queue.heaps.values() if heap]
        return min((head for head in heads if self._allowed(head[2])), default=None)

    def _allowed(self, job: Job) -> bool:
        return not job.long or self._long.fits(job.asker.client)

    def _turn(self, client: str, queue: _Queue, head: Head, now: float) -> tuple[float, int, float]:
        """Orders the clients: by level, then by the slots they hold, then by how long they wait."""
        arrival, _, job = head
        since = max(arrival + AGING * job.request.priority, queue.since)
        level = job.request.priority + max(now - since, 0) // AGING
        return -level, self.slots.held(client), since

    def _hold(self, image: Image, amount: int) -> None:
        self.slots.take(image.job.asker.client, amount)
        if image.long:
            self._long.take(image.job.asker.client, amount)

    def _tidy(self, client: str) -> None:
        if not any(self._queues[client].heaps.values()):
            del self._queues[client]
