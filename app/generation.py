"""One request on its way: from what is asked to images, and from images to files."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace

from app.access.admission import NO_PERMIT_NEEDED, Permit
from app.engine.client import EngineClient
from app.engine.job import MAX_PRIORITY, NOBODY, Asker, Request, SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.observer import Drawing
from app.engine.pending import Watch
from app.engine.results import Result, Update
from app.errors import InvalidRequest
from app.files.formats import PNG, Format, encode
from app.files.parameters import describe

_SMALL = 1 << 12  # bytes of pixels: a tenth of a millisecond as PNG, one as WebP


@dataclass(frozen=True)
class Studio:
    """What a route has before it knows what is asked: the engine, and who asks."""

    engine: EngineClient
    marked: bool  # files say how they were made
    asker: Asker = NOBODY
    max_priority: int = MAX_PRIORITY  # that a request may have
    quiet: float = 15.0  # seconds of silence after which a stream sends a comment
    waited: float = 0.0  # seconds, for the models to load
    permit: Permit = NO_PERMIT_NEEDED  # what may be asked, and how much by this client

    async def opened(self, timeout: float | None = None, model: object = None) -> "Studio":
        """Itself, once requests are taken: while models load, a request waits for them.

        The `model` that is asked for is loaded if it never was; it may be no name of one.

        Raises:
            EngineUnavailable: not within `timeout` seconds, or the limit where absent; or never.
        """
        began, engine = time.monotonic(), self.engine
        seconds = engine.timeout if timeout is None else timeout
        waits = engine.loading
        await engine.loaded(seconds)
        if isinstance(model, str) and model not in engine.models:
            waits = True
            await engine.described(model, seconds - (time.monotonic() - began))
        waited = self.waited + time.monotonic() - began
        return replace(self, waited=waited) if waits else self

    @property
    def models(self) -> Mapping[str, ModelInfo]:
        """The models that were loaded, by name; the first is the default."""
        return self.engine.models

    async def names(self) -> Sequence[str]:
        """What requests may name, with what has come into the folders by now."""
        await self.engine.fleet.refresh()
        return self.engine.names

    def request(self, params: SamplingParams) -> Request:
        """A request for these images, and no more than that."""
        return Request(params, asker=self.asker)

    def generation(self, request: Request) -> "Generation":
        """A request, ready to be drawn.

        Raises:
            InvalidRequest: it may not have its priority here, or is too large.
            EngineUnavailable: its model did not load.
        """
        self.permit.limits.check(request.params)
        if request.priority > self.max_priority:
            allowed = f"must be at most {self.max_priority} here (DARKROOM_MAX_PRIORITY)"
            raise InvalidRequest({"priority": allowed})
        if self.waited:  # a deadline counts from when the client asked
            timeout = self.engine.timeout if request.timeout is None else request.timeout
            request = replace(request, timeout=timeout - self.waited)
        info = self.models[request.params.model]
        return Generation(self.engine, request, info, self.marked, self.quiet, self.permit)

    def job(self, request: Request) -> "Generation":
        """As `generation`, for a job: its deadline counts from its acceptance, if it has one."""
        return replace(self, waited=0.0).generation(request)


@dataclass(frozen=True)
class Generation:
    """One request, of one model."""

    engine: EngineClient
    request: Request
    info: ModelInfo
    marked: bool
    quiet: float = 15.0
    permit: Permit = NO_PERMIT_NEEDED

    @property
    def params(self) -> SamplingParams:
        """What fixes its pixels."""
        return self.request.params

    async def draw(self, watch: Watch | None = None) -> Result:
        """Its images. Cancel the task and its slots are free.

        `watch` is told what becomes of it meanwhile.

        Raises:
            EngineError: it was refused, or failed.
            LimitExceeded, InvalidRequest: its client has no evaluations left for it, or never has.
        """
        seen = self.request if watch else replace(self.request, previews=0)
        drawing = Drawing(self.request)
        try:
            drawing.result = await self._draw(seen, watch)
        except BaseException as error:
            drawing.error = error
            raise
        finally:
            drawing.ended = time.monotonic()
            self.engine.observer.drawn(drawing)
        return drawing.result

    async def _draw(self, seen: Request, watch: Watch | None) -> Result:
        if self.permit.meter is None:  # to be watched costs a look through the queue
            return await self.engine.generate(seen, watch)
        with self.permit.meter.charged(self.params.work) as charge:
            return await self.engine.generate(seen, charge.watching(watch))

    def streamed(self, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same events, counted among the open streams of whoever asks.

        Raises:
            LimitExceeded: instead of the first event.
        """
        return self.permit.held(self.request.asker.client, events)

    def cautions(self, result: Result) -> tuple[str, ...]:
        """What to tell of its images besides: that prompts were cut."""
        return self.info.prompts.cautions(result.cut) if self.info.prompts else ()

    async def follow(self) -> AsyncGenerator[Sequence[Update | Result], None]:
        """What became of it since the last time, in order; the result is the last.

        An empty sequence is a sign of life, sent from time to time. The first update comes at once.
        If it is refused, that raises instead of it, and if it fails, instead of its result. Closing
        this generator ends the request.
        """
        updates: list[Update] = []
        changed = asyncio.Event()

        def note(update: Update) -> None:
            updates.append(update)
            changed.set()

        work = asyncio.create_task(self.draw(note))
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

    async def files(
        self, result: Result, kind: Format = PNG, quality: int | None = None
    ) -> list[bytes]:
        """Every image as a file, in order; large ones are made in a thread of their own."""

        def made() -> list[bytes]:
            return [
                encode(pixels, kind, self._parameters(k), quality)
                for k, pixels in enumerate(result.images)
            ]

        began = time.monotonic()
        small = sum(len(pixels.data) for pixels in result.images) <= _SMALL
        files = made() if small else await asyncio.to_thread(made)
        self.engine.observer.encoded(self.request, time.monotonic() - began)
        return files

    def _parameters(self, image: int) -> str | None:
        return describe(self.params, image, self.info) if self.marked else None
