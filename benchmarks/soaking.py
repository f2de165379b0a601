"""The requests of a long run: each is counted, and its end and its bytes are checked."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

import aiohttp

from benchmarks.mixed import EVENTS, Ask, Wrong, send

_SHARES = {"picture": 0.65, "job": 0.25, "leave": 0.1}
_CANCELED = 0.15  # of jobs
_LONG = 200  # steps of what its client leaves
_LEAVE = (0.05, 0.5)  # seconds after which it does
_ENDS = ("succeeded", "failed", "canceled")
_LAST_SECONDS = 5.0  # for the last ends to be told


@dataclass
class Counts:
    """What became of the requests, by kind."""

    sent: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)  # by their clients
    faults: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # what must not be

    def compare(self, kind: str, status: int, picture: bytes, ask: Ask, twin: bytes) -> None:
        """Note the end of a request."""
        if status == 429:
            self.refused[kind] += 1
        elif status != 200:
            self.wrong.append(f"{kind}: status {status} for {ask}: {picture[:200]!r}")
        elif picture != twin:
            self.wrong.append(f"{kind}: other bytes than its twin: {ask}")
        else:
            self.right[kind] += 1

    def rows(self) -> list[tuple[str, ...]]:
        """Of a table: kind, sent, ended right, refused, left."""
        each = (self.sent, self.right, self.refused, self.left)
        return [(kind, *(str(counts[kind]) for counts in each)) for kind in sorted(self.sent)]


class Jobs:
    """Those that were accepted, and the stream that tells of them."""

    def __init__(
        self, http: aiohttp.ClientSession, counts: Counts, twins: Mapping[Ask, bytes]
    ) -> None:
        self._http, self._counts, self._twins = http, counts, twins
        self._accepted: dict[str, Ask] = {}  # by id
        self._canceled: set[str] = set()
        self._ends: Counter[str] = Counter()  # told by the stream, by id
        self.following = asyncio.Event()  # the stream has begun

    async def begin(self, ask: Ask, chance: random.Random) -> None:
        """Ask for a job; some are canceled at once."""
        headers = {"Prefer": "respond-async"}
        async with self._http.post("/generate", json=ask.native, headers=headers) as answer:
            if answer.status != 202:
                content = await answer.read()
                self._counts.compare("job", answer.status, content, ask, b"")
                return
            number = (await answer.json())["id"]
        self._accepted[number] = ask
        if chance.random() < _CANCELED:
            self._canceled.add(number)
            await asyncio.sleep(chance.uniform(0, 0.5))
            async with self._http.delete(f"/jobs/{number}") as answer:
                if answer.status >= 300:
                    raise Wrong(f"DELETE of a job: {answer.status}")

    async def follow(self) -> None:
        """Read the stream of all jobs, without end; it is joined again where it breaks."""
        last = ""
        endless = aiohttp.ClientTimeout(total=None)
        while True:
            headers = {"Accept": EVENTS} | ({"Last-Event-ID": last} if last else {})
            with suppress(aiohttp.ClientError):
                async with self._http.get(
                    "/jobs/events", headers=headers, timeout=endless
                ) as answer:
                    answer.raise_for_status()
                    name = ""
                    async for line in answer.content:
                        key, _, value = line.decode().rstrip("\n").partition(": ")
                        if key == "id":
                            last = value
                        elif key == "event":
                            name = value
                            self.following.set()
                        elif key == "data" and name in _ENDS:
                            self._ends[json.loads(value)["id"]] += 1
            self._counts.faults["event streams broken"] += 1
            await asyncio.sleep(0.5)

    async def settle(self, seconds: float) -> None:
        """Wait for the end of every job, and compare its picture."""
        end = time.perf_counter() + seconds
        for number, ask in self._accepted.items():
            job = await self._ended(number, end)
            if job["status"] == "succeeded":
                async with self._http.get(f"/jobs/{number}/images/0") as answer:
                    content = await answer.read()
                self._counts.compare("job", answer.status, content, ask, self._twins[ask])
            elif job["status"] == "canceled" and number in self._canceled:
                self._counts.left["job"] += 1
            else:
                told = f"job {number} is {job['status']}: {job['error']}"
                self._counts.wrong.append(told)
        end = time.perf_counter() + _LAST_SECONDS
        while len(self._ends) < len(self._accepted) and time.perf_counter() < end:
            await asyncio.sleep(0.1)
        for number in self._accepted.keys() | self._ends.keys():
            if (times := self._ends[number]) != 1:
                self._counts.wrong.append(f"the end of job {number} was told {times} times")

    async def _ended(self, number: str, end: float) -> dict[str, str]:
        """A job at its end, or as it is when time is over."""
        while True:
            async with self._http.get(f"/jobs/{number}") as answer:
                answer.raise_for_status()
                job: dict[str, str] = await answer.json()
            if job["status"] in _ENDS or time.perf_counter() > end:
                return job
            await asyncio.sleep(0.1)


class Kinds:
    """What arrives at random: pictures, jobs, and clients that leave."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        counts: Counts,
        twins: Mapping[Ask, bytes],
        jobs: Jobs,
        chance: random.Random,
    ) -> None:
        self._http, self._counts, self._twins = http, counts, twins
        self._jobs, self._chance = jobs, chance
        self._asks = list(twins)
        self._of_jobs = [ask for ask in self._asks if ask.dialect == "native"]

    async def one(self) -> None:
        """A request of any kind, to its end."""
        (kind,) = self._chance.choices(list(_SHARES), list(_SHARES.values()))
        ask = self._chance.choice(self._of_jobs if kind == "job" else self._asks)
        name = ask.dialect if kind == "picture" else kind
        self._counts.sent[name] += 1
        try:
            if kind == "picture":
                status, picture = await send(self._http, ask)
                self._counts.compare(name, status, picture, ask, self._twins[ask])
            elif kind == "job":
                await self._jobs.begin(ask, self._chance)
            else:
                await self._leave(ask)
        except (aiohttp.ClientError, TimeoutError, Wrong) as error:
            self._counts.wrong.append(f"{name}: {error!r}")

    async def _leave(self, ask: Ask) -> None:
        """Close the connection before the answer is there."""
        long = replace(ask, steps=_LONG, seed=self._chance.randrange(2**32))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._chance.uniform(*_LEAVE)):
                await send(self._http, long)
        self._counts.left["leave"] += 1
