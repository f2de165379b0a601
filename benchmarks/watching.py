"""Memory and descriptors of a server and its workers, over time."""

import asyncio
import statistics
import time
from contextlib import suppress
from typing import NamedTuple

import psutil

_SECONDS = 2.0  # between samples
_FIRST = 60.0  # seconds in which caches fill; of a short run, a third
_OLD = 20.0  # seconds after which a worker has all the memory that it needs
_PART = 0.2  # of the samples, at each end, that are compared
_MEMORY, _DESCRIPTORS = 16 << 20, 8  # that may come and go


class Sample(NamedTuple):
    """What there is at one moment."""

    seconds: float
    server: int  # bytes
    worker: int | None  # bytes, of the largest one that is old enough
    descriptors: int  # of the server, without connections of clients
    of_worker: int | None  # descriptors, the most


class Watch:
    """Samples of the server with this process id."""

    def __init__(self, pid: int) -> None:
        self._server, self._began = psutil.Process(pid), time.time()
        self.samples: list[Sample] = []

    def workers(self) -> list[psutil.Process]:
        """The workers that run."""
        found = []
        for child in self._server.children():
            with suppress(psutil.Error):
                if "app.engine.worker" in child.cmdline():
                    found.append(child)
        return found

    async def sample_often(self) -> None:
        """Take samples, without end."""
        while True:
            self.sample()
            await asyncio.sleep(_SECONDS)

    def sample(self) -> None:
        """Take one."""
        now, sizes, numbers = time.time(), [], []
        for worker in self.workers():
            with suppress(psutil.Error):
                if now - worker.create_time() > _OLD:
                    sizes.append(worker.memory_info().rss)
                    numbers.append(worker.num_fds())
        # Listening sockets stay; those of clients come and go.
        clients = sum(each.status != psutil.CONN_LISTEN for each in self._server.net_connections())
        self.samples.append(
            Sample(
                now - self._began,
                self._server.memory_info().rss,
                max(sizes, default=None),
                self._server.num_fds() - clients,
                max(numbers, default=None),
            )
        )

    def growth(self) -> tuple[list[tuple[str, ...]], list[str]]:
        """Rows of a table, and what grew: the medians of the first and the last samples."""
        first = min(_FIRST, self.samples[-1].seconds / 3)
        kept = [sample for sample in self.samples if sample.seconds >= first]
        rows, grew = [], []
        for name, which, unit, most in (
            ("server, MiB", 1, 2**20, _MEMORY),
            ("a worker, MiB", 2, 2**20, _MEMORY),
            ("descriptors of the server, without clients' connections", 3, 1, _DESCRIPTORS),
            ("descriptors of a worker", 4, 1, _DESCRIPTORS),
        ):
            values = [value for sample in kept if (value := sample[which]) is not None]
            if not values:
                continue
            part = max(int(len(values) * _PART), 1)
            early, late = statistics.median(values[:part]), statistics.median(values[-part:])
            numbers = (early, late, max(values))
            rows.append((name, *(f"{number / unit:.0f}" for number in numbers)))
            if late > early + most:
                grew.append(f"{name}: {early / unit:.0f} became {late / unit:.0f}")
        return rows, grew
