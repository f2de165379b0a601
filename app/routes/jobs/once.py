"""Answers that are given once, and repeated where the same Idempotency-Key comes again."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from fastapi import Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from app.errors import JobError, StoreUnavailable
from app.jobs.job import Job
from app.jobs.keys import Answer, Keyed, Keys
from app.jobs.service import Asked, JobService
from app.jobs.store import Place

_FAILED = b"event: error\n"


def response_of(answer: Answer) -> Response:
    """An answer that was kept, as it was given."""
    response = Response(answer.body, answer.status)
    response.raw_headers = [
        (name.encode("latin-1"), value.encode("latin-1")) for name, value in answer.headers
    ]
    if "content-length" not in response.headers:
        response.headers["content-length"] = str(len(answer.body))
    return response


async def accepted(
    service: JobService, asked: Asked, keyed: Keyed | None, told: Callable[[Job, Place], Answer]
) -> Answer:
    """The answer to a request that becomes a job; the one that is kept, if its key came before.

    Raises:
        DeadlineTooShort, LimitExceeded, TooManyJobs, StoreUnavailable, KeyInUse, KeyReused
    """
    if keyed is None:
        return told(*await service.accept(asked))
    return await service.accept_once(keyed, asked, told)


async def once(keys: Keys, keyed: Keyed, answer: Callable[[], Awaitable[Response]]) -> Response:
    """The answer to a request, kept from then on; a stream is kept when it has ended.

    What is refused, fails, or ends because its client left, is not kept.

    Raises:
        KeyInUse, KeyReused, StoreUnavailable; and what `answer` raises
    """
    kept = await _begun(keys, keyed)
    if kept is not None:
        return response_of(kept)
    try:
        response = await answer()
    except BaseException:
        await _dropped(keys, keyed)
        raise
    if isinstance(response, StreamingResponse):
        return _Recorded(response, keys, keyed)
    await _kept(keys, keyed, response, bytes(response.body))
    return response


class _Recorded(Response):
    """A stream that is kept when it has ended as it should, and had room while it was sent."""

    def __init__(self, stream: StreamingResponse, keys: Keys, keyed: Keyed) -> None:
        self.status_code, self.background = stream.status_code, None
        self.raw_headers = stream.raw_headers
        self._stream, self._keys, self._keyed = stream, keys, keyed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whole = failed = False

        async def sent(message: Message) -> None:
            nonlocal whole, failed
            if message["type"] == "http.response.body":
                part = message.get("body", b"")
                failed = failed or part.startswith(_FAILED)
                whole = not message.get("more_body") and not failed
                recording.add(part)
            await send(message)

        with self._keys.recorder.recording(self._keyed.owner) as recording:
            try:
                await self._stream(scope, receive, sent)
            finally:
                if whole and (body := recording.body) is not None:
                    await _kept(self._keys, self._keyed, self, body)
                else:
                    await _dropped(self._keys, self._keyed)


async def _begun(keys: Keys, keyed: Keyed) -> Answer | None:
    """The answer that is kept. A key that is taken while its client leaves is forgotten again."""
    beginning = asyncio.create_task(keys.begin(keyed))
    try:
        await asyncio.wait([beginning])
    except asyncio.CancelledError:
        with contextlib.suppress(JobError):  # nothing was taken
            if await beginning is None:
                await _dropped(keys, keyed)
        raise
    return beginning.result()


async def _kept(keys: Keys, keyed: Keyed, response: Response, body: bytes) -> None:
    headers = tuple(
        (name.decode("latin-1"), value.decode("latin-1")) for name, value in response.raw_headers
    )
    with contextlib.suppress(StoreUnavailable):  # the log has it
        await keys.keep(keyed, Answer(response.status_code, headers, body))


async def _dropped(keys: Keys, keyed: Keyed) -> None:
    """Forget a key, though the task that served it was cancelled."""
    dropping = asyncio.create_task(keys.drop(keyed))
    with contextlib.suppress(StoreUnavailable):  # its lease will end
        await asyncio.shield(dropping)
