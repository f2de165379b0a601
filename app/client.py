"""A client of the native API, over httpx: plain and asynchronous, whole answers and events.

    with Client("http://localhost:8000") as client:
        picture = client.picture(class_="7", seed=1)        # PNG bytes
        response = client.generate(class_="7", n=4)         # GenerateResponse
        for event in client.follow(class_="7", steps=200):  # QueuedEvent ... CompletedEvent
            ...

Closing a `follow` before its end, or leaving a `with`, ends the request on the server.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import httpx
from httpx_sse import ServerSentEvent, aconnect_sse, connect_sse
from pydantic import ValidationError

from app.errors import Problem
from app.schemas.responses import (
    CompletedEvent,
    GenerateResponse,
    PreviewEvent,
    ProgressEvent,
    QueuedEvent,
)
from app.schemas.status import ModelList, ModelOut
from models.sampling import SamplerName, Spacing

DEFAULT_URL = "http://127.0.0.1:8000"
_TIMEOUT = httpx.Timeout(30.0, read=None)  # how long drawing takes is the server's to bound
_JSON = "application/json"

Event = QueuedEvent | ProgressEvent | PreviewEvent | CompletedEvent
_KINDS: dict[str, type[Event]] = {
    "queued": QueuedEvent,
    "progress": ProgressEvent,
    "preview": PreviewEvent,
    "completed": CompletedEvent,
}


class Wanted(TypedDict, total=False):
    """What to draw: the fields of `POST /generate`, `class_` for the class."""

    class_: str | int | None
    prompt: str | None
    negative_prompt: str | None
    clip_skip: int | None
    steps: int
    sampler: SamplerName | None
    spacing: Spacing | None
    guidance_scale: float | None
    guidance_interval: tuple[float, float]
    eta: float
    seed: int | None
    n: int
    width: int | None
    height: int | None
    model: str | None
    priority: int
    timeout: float | None
    previews: int


class ServerError(Exception):
    """The server refused or failed; `problem` is what it said, `retry_after` seconds if any."""

    def __init__(self, problem: Problem, retry_after: int | None = None) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail}")
        self.problem, self.retry_after = problem, retry_after


class Client:
    """Talks to one server; use it as a context manager, or close it."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        self._http = httpx.Client(base_url=url, timeout=_TIMEOUT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def models(self) -> list[ModelOut]:
        """The loaded models, the default first."""
        return _models(self._http.get("/models"))

    def picture(self, media_type: str = "image/png", **wanted: Unpack[Wanted]) -> bytes:
        """One image as a file; raises `ServerError`."""
        return _checked(self._http.send(self._request(media_type, wanted))).content

    def generate(self, **wanted: Unpack[Wanted]) -> GenerateResponse:
        """Images with what was used to make them; raises `ServerError`."""
        answer = _checked(self._http.send(self._request(_JSON, wanted)))
        return GenerateResponse.model_validate_json(answer.content)

    def follow(self, **wanted: Unpack[Wanted]) -> Generator[Event, None, None]:
        """The events of a request in step order, a `CompletedEvent` last; raises `ServerError`."""
        with connect_sse(self._http, "POST", "/generate", json=_body(wanted)) as source:
            if not source.response.is_success:
                source.response.read()
                _checked(source.response)
            for said in source.iter_sse():
                yield _event(said)

    def _request(self, accept: str, wanted: Wanted) -> httpx.Request:
        headers = {"Accept": accept}
        return self._http.build_request("POST", "/generate", json=_body(wanted), headers=headers)


class AsyncClient:
    """As `Client`, for asyncio."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        limits = httpx.Limits(max_connections=None)
        self._http = httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=limits)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._http.aclose()

    async def models(self) -> list[ModelOut]:
        """The loaded models, the default first."""
        return _models(await self._http.get("/models"))

    async def picture(self, media_type: str = "image/png", **wanted: Unpack[Wanted]) -> bytes:
        """One image as a file; raises `ServerError`."""
        return _checked(await self._http.send(self._request(media_type, wanted))).content

    async def generate(self, **wanted: Unpack[Wanted]) -> GenerateResponse:
        """Images with what was used to make them; raises `ServerError`."""
        answer = _checked(await self._http.send(self._request(_JSON, wanted)))
        return GenerateResponse.model_validate_json(answer.content)

    async def follow(self, **wanted: Unpack[Wanted]) -> AsyncGenerator[Event, None]:
        """The events of a request in step order, a `CompletedEvent` last; raises `ServerError`."""
        async with aconnect_sse(self._http, "POST", "/generate", json=_body(wanted)) as source:
            if not source.response.is_success:
                await source.response.aread()
                _checked(source.response)
            async with aclosing(source.aiter_sse()) as events:
                async for said in events:
                    yield _event(said)

    def _request(self, accept: str, wanted: Wanted) -> httpx.Request:
        headers = {"Accept": accept}
        return self._http.build_request("POST", "/generate", json=_body(wanted), headers=headers)


def _body(wanted: Wanted) -> dict[str, Any]:
    return {"class" if name == "class_" else name: value for name, value in wanted.items()}


def _event(said: ServerSentEvent) -> Event:
    if said.event == "error":
        raise ServerError(Problem.model_validate_json(said.data))
    return _KINDS[said.event].model_validate_json(said.data)


def _models(answer: httpx.Response) -> list[ModelOut]:
    return ModelList.model_validate_json(_checked(answer).content).models


def _checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is one; raises `ServerError`."""
    if answer.is_success:
        return answer
    try:
        problem = Problem.model_validate_json(answer.content)
    except ValidationError:  # not ours: a proxy's, say
        detail = answer.text[:200]
        problem = Problem(
            title=answer.reason_phrase, status=answer.status_code, detail=detail, error=detail
        )
    wait = answer.headers.get("retry-after", "")
    raise ServerError(problem, int(wait) if wait.isdecimal() else None)
