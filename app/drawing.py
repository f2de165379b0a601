"""One request on its way: what every dialect hands to the engine, and what comes back of it."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace

from app.engine.client import EngineClient
from app.engine.job import MAX_PRIORITY, NOBODY, Asker, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.pending import Watch
from app.engine.results import Result, Update
from app.errors import InvalidRequest
from app.images import PNG, Format, describe, encode

_SMALL = 1 << 12  # bytes of pixels: a tenth of a millisecond as PNG, one as WebP


@dataclass(frozen=True)
class Order:
    """A valid request: what to draw, how urgent it is, and how often to show it on the way."""

    params: SamplingParams
    priority: int = 0
    timeout: float | None = None
    previews: int = 0


@dataclass(frozen=True)
class Studio:
    """Turns one client's orders into images, and images into files."""

    engine: EngineClient
    marked: bool  # files say how they were made
    asker: Asker = NOBODY
    max_priority: int = MAX_PRIORITY  # that an order may have
    quiet: float = 15.0  # seconds of silence after which a stream sends a comment
    waited: float = 0.0  # seconds, for the models to load

    async def opened(self, timeout: float | None = None) -> "Studio":
        """Itself, once requests are taken: while models load, a request waits for them.

        Raises:
            EngineUnavailable: not within `timeout` seconds, or the limit where absent; or never.
        """
        began, waits = time.monotonic(), self.engine.loading
        await self.engine.loaded(self.engine.timeout if timeout is None else timeout)
        return replace(self, waited=time.monotonic() - began) if waits else self

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The loaded models by name; the first is the default."""
        return self.engine.models

    def info(self, order: Order) -> ModelInfo:
        """The model of an order; raises `InvalidRequest` where it may not be drawn here."""
        if order.priority > self.max_priority:
            allowed = f"must be at most {self.max_priority} here (DARKROOM_MAX_PRIORITY)"
            raise InvalidRequest({"priority": allowed})
        return self.engine.models[order.params.model]

    async def draw(self, order: Order, watch: Watch | None = None) -> Result:
        """The images of an order. Cancel the task and its slots are free.

        `watch` is told what becomes of it meanwhile.

        Raises:
            InvalidRequest: as of `info`.
            EngineError: it was refused, or failed.
        """
        self.info(order)
        timeout = self.engine.timeout if order.timeout is None else order.timeout
        return await self.engine.generate(
            order.params,
            asker=self.asker,
            priority=order.priority,
            timeout=timeout - self.waited,
            previews=order.previews if watch else 0,
            watch=watch,
        )

    async def follow(self, order: Order) -> AsyncGenerator[Sequence[Update | Result], None]:
        """What became of an order since the last time, in step order; the result is the last.

        An empty sequence is a sign of life, sent from time to time. The first update comes at once.
        A refused order raises instead of it, and a failed order raises instead of its result.
        Closing this generator ends the order.
        """
        updates: list[Update] = []
        changed = asyncio.Event()

        def note(update: Update) -> None:
            updates.append(update)
            changed.set()

        work = asyncio.create_task(self.draw(order, note))
        work.add_done_callback(lambda _: changed.set())
        try:
            while not work.done():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.quiet):
                        await changed.wait()
                changed.clear()
                if updates or not work.done():
                    news = tuple(updates)
                    updates.clear()
                    yield news
            yield (await work,)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def encode(
        self, order: Order, result: Result, kind: Format = PNG, quality: int | None = None
    ) -> list[bytes]:
        """Every image as a file, in order; large ones are made in a thread of their own."""
        params, info = order.params, self.info(order)

        def files() -> list[bytes]:
            return [
                encode(pixels, kind, describe(params, k, info) if self.marked else None, quality)
                for k, pixels in enumerate(result.images)
            ]

        if sum(len(pixels.data) for pixels in result.images) <= _SMALL:
            return files()
        return await asyncio.to_thread(files)
