"""Sending requests and noting how each went: what every pattern of `benchmarks.load` is made of.

Times are in seconds and count from the start of the window that is measured: what began while the
server warmed up began before 0.
"""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from PIL import Image

from benchmarks.workload import Request

_CHECKED = 4  # pictures that are decoded, once the window is over
_SIZE = (32, 32)  # of a picture, pixels
_SMALLEST_PNG = 67  # bytes


@dataclass(frozen=True)
class Answer:
    """How one request went. Status 0: no answer, or one too short to be a picture."""

    steps: int
    guidance_scale: float
    began: float
    seconds: float
    status: int

    @property
    def ended(self) -> float:
        """When the last byte was there."""
        return self.began + self.seconds


@dataclass
class Run:
    """One measurement."""

    answers: list[Answer]
    window: float  # seconds, from 0
    unanswered: int = 0  # requests due in the window that had no answer when the run ended
    long: list[Answer] = field(default_factory=list)  # those of the crowd that ran beside
    cpu: float = 0.0  # seconds of processor time that sending took, all in all


class Client:
    """Sends requests over connections that are kept."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self.answers: list[Answer] = []
        self._http = http
        self._pictures: list[bytes] = []
        self._zero = time.perf_counter()

    def start_window(self, after: float = 0.0) -> None:
        """Let times count from `after` seconds from now."""
        self._zero = time.perf_counter() + after

    def now(self) -> float:
        """Seconds since the window began."""
        return time.perf_counter() - self._zero

    async def send(self, request: Request, due: float | None = None) -> Answer:
        """Send one request. Its time counts from `due`, or else from now."""
        began = self.now() if due is None else due
        try:
            async with self._http.post("/generate", data=request.body()) as response:
                picture, status = await response.read(), response.status
        except aiohttp.ClientError:
            picture, status = b"", 0
        if status == 200 and len(picture) < _SMALLEST_PNG:
            status = 0
        if status == 200 and len(self._pictures) < _CHECKED:
            self._pictures.append(picture)
        answer = Answer(request.steps, request.guidance_scale, began, self.now() - began, status)
        self.answers.append(answer)
        return answer

    async def keep_sending(self, requests: Iterator[Request], stop: asyncio.Event) -> None:
        """One request after the other, until `stop` or the last one."""
        while not stop.is_set() and (request := next(requests, None)):
            await self.send(request)

    def check(self) -> None:
        """Decode the first pictures.

        Raises:
            ValueError: one has another size.
            OSError: one is no PNG.
        """
        for picture in self._pictures:
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                image.load()
                if image.size != _SIZE:
                    raise ValueError(f"a picture is {image.size}; expected {_SIZE}")


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Client]:
    """A client with as many connections as it needs; its pictures are checked at the end."""
    async with aiohttp.ClientSession(
        url,
        headers={"content-type": "application/json"},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as http:
        client = Client(http)
        yield client
        client.check()
