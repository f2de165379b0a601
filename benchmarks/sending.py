"""Sending requests and noting how each went: what every pattern of `benchmarks.load` is made of.

Times are in seconds and count from the start of the window that is measured: what began while the
server warmed up began before 0.
"""

import asyncio
import io
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

import aiohttp
from PIL import Image

_CHECKED = 4  # pictures that are decoded, once the window is over
SIDE = 32  # of a picture of the digits, pixels
_SMALLEST_PNG = 67  # bytes
_ENDS = (b"succeeded", b"failed", b"canceled")


class Asking(Protocol):
    """A request for one image."""

    @property
    def steps(self) -> int: ...

    @property
    def guidance_scale(self) -> float: ...

    def body(self, **more: object) -> bytes:
        """The JSON that is sent."""


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

    def __init__(self, http: aiohttp.ClientSession, previews: int | None, side: int) -> None:
        self.answers: list[Answer] = []
        self._http, self._previews, self._side = http, previews, side
        self._pictures: list[bytes] = []
        self._streams: list[tuple[Asking, bytes]] = []
        self._zero = time.perf_counter()

    def start_window(self, after: float = 0.0) -> None:
        """Let times count from `after` seconds from now."""
        self._zero = time.perf_counter() + after

    def now(self) -> float:
        """Seconds since the window began."""
        return time.perf_counter() - self._zero

    async def send(self, request: Asking, due: float | None = None) -> Answer:
        """Send one request. Its time counts from `due`, or else from now."""
        began = self.now() if due is None else due
        try:
            picture, status = await self.fetch(request)
        except aiohttp.ClientError:
            picture, status = b"", 0
        if status == 200 and len(picture) < _SMALLEST_PNG:
            status = 0
        if status == 200 and self._previews is not None:
            self._streams.append((request, picture))
        elif status == 200 and len(self._pictures) < _CHECKED:
            self._pictures.append(picture)
        answer = Answer(request.steps, request.guidance_scale, began, self.now() - began, status)
        self.answers.append(answer)
        return answer

    async def fetch(self, request: Asking) -> tuple[bytes, int]:
        """What the server answers, and its status; raises `aiohttp.ClientError`."""
        body = request.body()
        if self._previews is not None:
            body = request.body(previews=self._previews)
        async with self._http.post("/generate", data=body) as response:
            return await response.read(), response.status

    async def keep_sending(self, requests: Iterator[Asking], stop: asyncio.Event) -> None:
        """One request after the other, until `stop` or the last one."""
        while not stop.is_set() and (request := next(requests, None)):
            await self.send(request)

    def check(self) -> None:
        """Decode the first pictures; read every stream of events.

        Raises:
            ValueError: a picture has another size; steps go back, a preview is missing, or there is
                no end, or two.
            OSError: one is no PNG.
        """
        for request, stream in self._streams:
            check_events(request, stream, self._previews or 0)
        for picture in self._pictures:
            with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
                image.load()
                if image.size != (self._side, self._side):
                    raise ValueError(f"a picture is {image.size}; expected sides of {self._side}")


def check_events(request: Asking, stream: bytes, previews: int) -> None:
    """Steps in order, every preview, and one end, the last; raises `ValueError`."""
    told = []
    for block in stream.decode().strip().split("\n\n"):
        name, _, data = block.partition("\n")
        told.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    steps = [data["step"] for name, data in told if name in ("progress", "preview")]
    shown = sum(name == "preview" for name, _ in told)
    ends = [name in ("completed", "error") for name, _ in told]
    if steps != sorted(steps) or shown != previews or ends != [False] * (len(ends) - 1) + [True]:
        raise ValueError(f"the events of {request}: {[name for name, _ in told]}, steps {steps}")


class JobClient(Client):
    """Sends each request as a job; the one stream of events tells when they have ended."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        super().__init__(http, None, SIDE)
        self._ended: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def follow(self, open_: asyncio.Event) -> None:
        """Read the stream of events until this is cancelled."""
        async with self._http.get("/jobs/events") as response:
            name = b""
            async for line in response.content:
                if line.startswith(b"event: "):
                    name = line[7:].strip()
                    open_.set()
                elif line.startswith(b"data: ") and name in _ENDS:
                    self._ended[json.loads(line[6:])["id"]].set()

    async def fetch(self, request: Asking) -> tuple[bytes, int]:
        """The picture, once the job has ended."""
        headers = {"prefer": "respond-async"}
        async with self._http.post("/generate", data=request.body(), headers=headers) as response:
            told, status = await response.read(), response.status
        if status != 202:
            return told, status
        job = json.loads(told)["id"]
        await self._ended[job].wait()
        del self._ended[job]
        async with self._http.get(f"/jobs/{job}/images/0") as response:
            return await response.read(), response.status


@asynccontextmanager
async def connected_for_jobs(url: str) -> AsyncIterator[JobClient]:
    """A client that follows its jobs; what it got is checked at the end."""
    async with (
        aiohttp.ClientSession(
            url,
            headers={"content-type": "application/json", "accept": "image/png"},
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=1 << 22,  # a line has the whole of a preview
        ) as http,
        asyncio.TaskGroup() as group,
    ):
        client, open_ = JobClient(http), asyncio.Event()
        following = group.create_task(client.follow(open_))
        await open_.wait()
        yield client
        following.cancel()
        client.check()


@asynccontextmanager
async def connected(
    url: str, previews: int | None = None, side: int = SIDE
) -> AsyncIterator[Client]:
    """A client with as many connections as it needs; what it got is checked at the end.

    Pictures have sides of `side` pixels. With a number of `previews` it asks for events, else for
    pictures.
    """
    accept = "image/png" if previews is None else "text/event-stream"
    async with aiohttp.ClientSession(
        url,
        headers={"content-type": "application/json", "accept": accept},
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
    ) as http:
        client = Client(http, previews, side)
        yield client
        client.check()
