"""The server's side of the engine: submit, await, cancel.

The worker runs in a thread beside the event loop; only commands and events cross (job.py).
"""

import asyncio
import itertools
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping

from app.engine.job import (
    Cancel,
    Command,
    Done,
    EngineBusy,
    EngineUnavailable,
    Event,
    Failed,
    GenerationFailed,
    LoadFailed,
    ModelInfo,
    Params,
    Pixels,
    Ready,
    Refused,
    Stop,
    Submit,
)
from app.engine.worker import Mechanism, Worker, WorkerConfig, load_runners

_PACE_SECONDS = 30.0
_MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on anything longer


class EngineClient:
    """Hands requests to the worker and their images back. One event loop uses it.

    `max_images` bounds what waits and runs at once; a request beyond it is refused, not queued.
    """

    def __init__(
        self,
        config: WorkerConfig,
        max_images: int,
        load: Callable[[WorkerConfig], list[Mechanism]] = load_runners,
    ) -> None:
        self._config, self._max_images, self._load_runners = config, max_images, load
        self._inbox: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._first: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._pending: dict[int, tuple[Params, asyncio.Future[tuple[Pixels, ...]]]] = {}
        self._ids = itertools.count(1)
        self._pace = Pace()
        self._stopped = False
        self.models: Mapping[str, ModelInfo] = {}

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return bool(self.models) and not self._stopped

    @property
    def images(self) -> int:
        """Images waiting or running."""
        return sum(params.n for params, _ in self._pending.values())

    def load(self) -> None:
        """Start the worker and wait until every model is loaded; a second call does nothing.

        Raises:
            LoadFailed: a model does not open.
        """
        if self._thread is not None:
            return
        worker = Worker(self._config, self._inbox, self._on_event, self._load_runners)
        self._thread = threading.Thread(target=worker.run, name="darkroom-engine", daemon=True)
        self._thread.start()
        event = self._first.get()
        if isinstance(event, Ready):
            self.models = {info.name: info for info in event.models}
            return
        self._thread.join()
        raise LoadFailed(event.reason if isinstance(event, Refused) else "the engine stopped")

    def attach(self) -> None:
        """Deliver events to the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    async def generate(self, params: Params) -> tuple[Pixels, ...]:
        """The images of a request. Cancelling the caller frees its slots by the next tick.

        Raises:
            EngineUnavailable: not loaded, or stopped before it was done.
            EngineBusy: no room for its images.
            GenerationFailed: it failed on the way.
        """
        if not self.ready:
            raise EngineUnavailable("the engine is not running")
        if self.images + params.n > self._max_images:
            wait = self._pace.seconds(sum(_work(p) for p, _ in self._pending.values()))
            raise EngineBusy(self.images, self._max_images, wait)
        job_id = next(self._ids)
        future: asyncio.Future[tuple[Pixels, ...]] = asyncio.get_running_loop().create_future()
        if not self._pending:
            self._pace.resume()
        self._pending[job_id] = (params, future)
        self._inbox.put(Submit(job_id, params))
        try:
            return await future
        except asyncio.CancelledError:
            self._inbox.put(Cancel(job_id))
            raise
        finally:
            self._pending.pop(job_id, None)

    async def close(self) -> None:
        """Stop the worker after its current tick; whatever it still held fails."""
        if self._thread is None:
            return
        self._inbox.put(Stop())
        await asyncio.to_thread(self._thread.join)
        self._stopped = True
        self._end_all()

    def _on_event(self, event: Event) -> None:
        """Called by the worker, in its thread."""
        if isinstance(event, Ready | Refused):
            self._first.put(event)
        elif self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._settle, event)

    def _settle(self, event: Event) -> None:
        if not isinstance(event, Done | Failed):
            self._stopped = True
            self._end_all()
            return
        params, future = self._pending.get(event.job_id, (None, None))
        if params is None or future is None or future.done():
            return
        if isinstance(event, Done):
            self._pace.made(_work(params))
            future.set_result(event.images)
        else:
            future.set_exception(GenerationFailed(event.reason))

    def _end_all(self) -> None:
        for _, future in self._pending.values():
            if not future.done():
                future.set_exception(EngineUnavailable("the engine stopped"))


def _work(params: Params) -> int:
    """Image steps a request asks for."""
    return params.steps * params.n


class Pace:
    """Image steps a second while there is work, to say how long a full queue will take."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, clock()
        self._work, self._busy = 0.0, 0.0

    def resume(self) -> None:
        """Work begins after a rest, which is not to count."""
        self._since = self._clock()

    def made(self, work: int) -> None:
        """Count finished work and the time since the last; both fade, so the pace is of late."""
        now = self._clock()
        self._work += work
        self._busy += now - self._since
        self._since = now
        if self._busy > _PACE_SECONDS:
            self._work, self._busy = self._work / 2, self._busy / 2

    def seconds(self, work: int) -> int:
        """Whole seconds that `work` will take, bounded; 1 while nothing is known."""
        wait = math.ceil(work * self._busy / self._work) if self._work else 1
        return min(max(wait, 1), _MAX_RETRY_AFTER)
