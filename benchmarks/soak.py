"""A long run at 80% of what the server can do, in which things go wrong on purpose.

    python -m benchmarks.soak                   ten minutes
    python -m benchmarks.soak --minutes 2

Requests of all kinds arrive at random: pictures, streams with previews, jobs, and some whose client
leaves. Every minute a worker is killed; every two minutes a model is unloaded, which the next
request for it loads again. Every accepted request must end exactly once, and its picture must be
the bytes of its twin, which was drawn alone before. Resident memory and descriptors must not grow.
"""

import asyncio
import itertools
import json
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import psutil

from benchmarks.servers import OURS, SERVERS, Running, Server, running
from models.library import WEIGHTS

_MODELS = ("digits", "twin")
_LOAD = 0.8  # of what the closed loop gets
_PEAK_CLIENTS, _PEAK_SECONDS = 32, 15.0
_SHARES = (0.5, 0.15, 0.25, 0.1)  # of pictures, streams, jobs, and clients that leave
_CANCELED = 0.1  # of jobs
_SAMPLE_SECONDS, _KILL_SECONDS, _UNLOAD_SECONDS = 5.0, 60.0, 120.0
_END_SECONDS = 120.0  # for what is under way when the run ends
_ENDS = ("succeeded", "failed", "canceled")

Body = tuple[tuple[str, object], ...]


@dataclass
class Counts:
    """What became of the requests."""

    sent: Counter[str] = field(default_factory=Counter)  # by kind
    refused: Counter[int] = field(default_factory=Counter)  # by status
    left: int = 0  # by their clients
    wrong: list[str] = field(default_factory=list)  # what must not be
    jobs: dict[str, Body] = field(default_factory=dict)  # accepted, by id
    canceled: set[str] = field(default_factory=set)  # jobs that were to be ended
    ends: Counter[str] = field(default_factory=Counter)  # told by the stream, by job


class Soak:
    """One run against one server."""

    def __init__(self, server: Running, http: aiohttp.ClientSession) -> None:
        self._server, self._http = server, http
        self._random = random.Random(0)
        self._twins: dict[Body, bytes] = {}
        self.counts = Counts()
        self.memory: list[tuple[float, int, int]] = []  # seconds, bytes, descriptors

    async def prepare(self, different: int = 60) -> None:
        """Draw every request alone; it is what the same request must get later."""
        draw = random.Random(1)
        for number in range(different):
            body: Body = (
                ("model", _MODELS[number % 3 == 2]),
                ("class", str(draw.randrange(10))),
                ("steps", draw.choice((5, 10, 20, 40))),
                ("sampler", draw.choice(("ddim", "euler", "dpmpp_2m", "heun"))),
                ("guidance_scale", draw.choice((1.0, 3.0))),
                ("seed", number),
            )
            async with self._http.post("/generate", json=dict(body)) as answer:
                answer.raise_for_status()
                self._twins[body] = await answer.read()

    async def peak(self) -> float:
        """Images per second of a closed loop."""
        done, end = itertools.count(), time.perf_counter() + _PEAK_SECONDS
        bodies = list(self._twins)

        async def client(number: int) -> None:
            turn = random.Random(number)
            while time.perf_counter() < end:
                body = dict(turn.choice(bodies)) | {"seed": turn.randrange(2**32)}
                async with self._http.post("/generate", json=body) as answer:
                    await answer.read()
                next(done)

        await asyncio.gather(*(client(number) for number in range(_PEAK_CLIENTS)))
        return next(done) / _PEAK_SECONDS

    async def run(self, rate: float, seconds: float) -> None:
        """Send at this rate for so long, with faults, and wait for every end."""
        began, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        beside = [
            asyncio.create_task(each)
            for each in (
                self._follow(),
                self._every(_SAMPLE_SECONDS, self._sample),
                self._every(_KILL_SECONDS, self._kill),
                self._every(_UNLOAD_SECONDS, self._unload),
            )
        ]
        due = began
        while (now := time.perf_counter()) < began + seconds:
            await asyncio.sleep(max(due - now, 0))
            task = asyncio.create_task(self._one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += self._random.expovariate(rate)
        for task in beside[2:]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks), _END_SECONDS)
        await self._settle()
        for task in beside:
            task.cancel()

    async def _one(self) -> None:
        """A request of any kind."""
        body = self._random.choice(list(self._twins))
        kinds = (self._picture, self._stream, self._job, self._leave)
        kind = self._random.choices(kinds, _SHARES)[0]
        self.counts.sent[kind.__name__.strip("_")] += 1
        try:
            await kind(body)
        except (aiohttp.ClientError, ValueError, KeyError) as error:
            self.counts.wrong.append(f"{kind.__name__}: {error!r}")

    async def _picture(self, body: Body) -> None:
        async with self._http.post("/generate", json=dict(body)) as answer:
            self._compare(answer.status, await answer.read(), body)

    async def _stream(self, body: Body) -> None:
        wanted, accept = dict(body) | {"previews": 3}, {"Accept": "text/event-stream"}
        async with self._http.post("/generate", json=wanted, headers=accept) as answer:
            text = (await answer.read()).decode()
            if answer.status != 200:
                self._compare(answer.status, b"", body)
                return
        blocks = text.split("\n\n")
        ends = [each for each in blocks if each.startswith(("event: completed", "event: error"))]
        if len(ends) != 1 or not ends[0].startswith("event: completed"):
            self.counts.wrong.append(f"a stream ended {len(ends)} times: {ends[:1]!s:.200}")

    async def _leave(self, body: Body) -> None:
        wanted = dict(body) | {"steps": 200, "seed": self._random.randrange(2**32)}
        with suppress(TimeoutError):
            async with asyncio.timeout(self._random.uniform(0.05, 0.5)):
                async with self._http.post("/generate", json=wanted) as answer:
                    await answer.read()
        self.counts.left += 1

    async def _job(self, body: Body) -> None:
        headers = {"Prefer": "respond-async"}
        async with self._http.post("/generate", json=dict(body), headers=headers) as answer:
            if answer.status != 202:
                self._compare(answer.status, b"", body)
                return
            number = (await answer.json())["id"]
        self.counts.jobs[number] = body
        if self._random.random() < _CANCELED:
            self.counts.canceled.add(number)
            async with self._http.delete(f"/jobs/{number}") as answer:
                answer.raise_for_status()

    def _compare(self, status: int, picture: bytes, body: Body) -> None:
        if status in (429, 503):
            self.counts.refused[status] += 1
        elif status != 200:
            self.counts.wrong.append(f"status {status} for {dict(body)}")
        elif picture != self._twins[body]:
            self.counts.wrong.append(f"other bytes than its twin: {dict(body)}")

    async def _follow(self) -> None:
        """The stream of all jobs; it is joined again where it breaks."""
        last = ""
        while True:
            headers = {"Last-Event-ID": last} if last else {}
            with suppress(aiohttp.ClientError):
                async with self._http.get("/jobs/events", headers=headers) as answer:
                    name = ""
                    async for line in answer.content:
                        text = line.decode().rstrip("\n")
                        if text.startswith("id:"):
                            last = text[3:].strip()
                        elif text.startswith("event:"):
                            name = text[6:].strip()
                        elif text.startswith("data:") and name in _ENDS:
                            told = json.loads(text[5:])
                            self.counts.ends[told.get("id") or told["job"]] += 1
            await asyncio.sleep(0.5)

    async def _settle(self) -> None:
        """Wait for the end of every job, and compare its picture."""
        end = time.perf_counter() + _END_SECONDS
        for number, body in self.counts.jobs.items():
            status = "queued"
            while status in ("queued", "running") and time.perf_counter() < end:
                async with self._http.get(f"/jobs/{number}") as answer:
                    job = await answer.json()
                status = job["status"]
                if status in ("queued", "running"):
                    await asyncio.sleep(0.1)
            if status == "succeeded":
                async with self._http.get(f"/jobs/{number}/images/0") as answer:
                    self._compare(answer.status, await answer.read(), body)
            elif status != "canceled" or number not in self.counts.canceled:
                self.counts.wrong.append(f"job {number} is {status}: {job.get('error')}")
        await asyncio.sleep(2)  # for the last ends
        for number in self.counts.jobs:
            if (times := self.counts.ends[number]) != 1:
                self.counts.wrong.append(f"the end of job {number} was told {times} times")

    async def _every(self, seconds: float, what: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            await what()

    async def _sample(self) -> None:
        processes = [psutil.Process(self._server.process.pid)]
        processes += processes[0].children(recursive=True)
        size = descriptors = 0
        for process in processes:
            with suppress(psutil.Error):
                size += process.memory_info().rss
                descriptors += process.num_fds()
        passed = time.perf_counter() - self._server.began
        self.memory.append((passed, size, descriptors))

    async def _kill(self) -> None:
        workers = [
            child
            for child in psutil.Process(self._server.process.pid).children()
            if "app.engine.worker" in child.cmdline()
        ]
        if workers:
            self._random.choice(workers).kill()
            self.counts.sent["workers killed"] += 1

    async def _unload(self) -> None:
        async with self._http.post("/models/twin/unload") as answer:
            if answer.status >= 300:
                self.counts.wrong.append(f"unload: {answer.status}")
        self.counts.sent["models unloaded"] += 1

    def told(self, rate: float, peak: float) -> dict[str, Any]:
        """What came of it."""
        tail = len(self.memory) // 5 or 1
        early, late = self.memory[12 : 12 + tail], self.memory[-tail:]
        counts = self.counts
        return {
            "images/s, at most": round(peak, 1),
            "requests/s, sent": round(rate, 1),
            "sent": dict(counts.sent),
            "refused, by status": dict(counts.refused),
            "left by their clients": counts.left,
            "jobs accepted": len(counts.jobs),
            "jobs canceled": len(counts.canceled),
            "MiB after a minute, at the end": [
                round(statistics.median(size for _, size, _ in part) / 2**20)
                for part in (early, late)
                if part
            ],
            "descriptors after a minute, at the end": [
                round(statistics.median(number for *_, number in part))
                for part in (early, late)
                if part
            ],
            "wrong": len(counts.wrong),
            "of these": counts.wrong[:20],
        }


async def _soak(server: Running, minutes: float) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=300)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(server.url, timeout=timeout, connector=connector) as http:
        soak = Soak(server, http)
        await soak.prepare()
        peak = await soak.peak()
        rate = _LOAD * peak
        await soak.run(rate, minutes * 60)
        return soak.told(rate, peak)


@click.command()
@click.option("--minutes", type=float, default=10.0, show_default=True)
def main(minutes: float) -> None:
    """Run it, and print what came of it as JSON; status 1 if anything was wrong."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(WEIGHTS / "digits", Path(folder) / "models" / "twin")
        ours = SERVERS[OURS]
        settings = {
            "DARKROOM_MODEL_FOLDERS": f"{folder}/models",
            "DARKROOM_DATABASE": f"sqlite:///{folder}/jobs.db",
        }
        with running(Server(ours.title, ours.arguments, ours.live, ours.ready, settings)) as server:
            server.wait(ours.ready)
            told = asyncio.run(_soak(server, minutes))
    click.echo(json.dumps(told, indent=2))
    if told["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
