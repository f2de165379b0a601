"""Loads the models that jobs wait for, one at a time, and later and later where that fails."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable

from app.engine.client import EngineClient
from app.engine.errors import EngineUnavailable
from app.jobs.database import enduring

_FIRST, _LONGEST = 10.0, 300.0  # seconds between two tries, doubling


class Waker:
    """`loaded` is called when a model is there. One event loop uses it."""

    def __init__(self, engine: EngineClient, loaded: Callable[[], None]) -> None:
        self._engine, self._loaded = engine, loaded
        self._pauses: dict[str, float] = {}  # seconds, of models that did not load
        self._due: dict[str, float] = {}  # when those are tried again; time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def wake(self, models: Iterable[str]) -> None:
        """Load the first of these that is due, unless one is being loaded."""
        if self._task is None or self._task.done():
            now = time.monotonic()
            for model in models:
                if self._due.get(model, now) <= now:
                    self._task = asyncio.create_task(self._load(model))
                    return

    async def close(self) -> None:
        """Load no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _load(self, model: str) -> None:
        with enduring(f"{model} could not be loaded"), contextlib.suppress(EngineUnavailable):
            await self._engine.described(model, self._engine.timeout)  # looks into the folders
            await self._engine.open(model)
            self._pauses.pop(model, None)
            self._due.pop(model, None)
            self._loaded()
            return
        pause = self._pauses[model] = min(2 * self._pauses.get(model, _FIRST / 2), _LONGEST)
        self._due[model] = time.monotonic() + pause
