"""A long run at 80% of what the server can do, in which things go wrong on purpose.

    python -m benchmarks.soak                   ten minutes, and two to prepare
    python -m benchmarks.soak --minutes 1.5 --out runs/bench

Requests of all dialects arrive at random, besides jobs, of which some are canceled, and clients
that leave. Every minute a worker is killed; every two minutes a model is unloaded and loaded. Every
accepted request must end exactly once, and its picture must have the bytes of its twin, which was
drawn alone before. Neither memory nor descriptors may grow after the first minute. Writes soak.md;
the status is 1 if anything was wrong.
"""

import asyncio
import itertools
import random
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import click

from benchmarks.mixed import Ask, random_ask, send
from benchmarks.report import table
from benchmarks.servers import OURS, SERVERS, Running, running
from benchmarks.serving import about
from benchmarks.soaking import Counts, Jobs, Kinds
from benchmarks.watching import Watch
from models.library import WEIGHTS

_LOAD = 0.8  # of what the closed loop gets
_DIFFERENT = 240  # requests: few equal ones are in flight at once, which would be computed once
_PEAK_CLIENTS, _PEAK_SECONDS = 32, 15.0
_KILL_SECONDS, _UNLOAD_SECONDS = 60.0, 120.0
_END_SECONDS = 120.0  # for what is under way when the run ends
_MOST_SHOWN = 20  # of what was wrong
_RESULTS = Path(__file__).parent / "results"


class Soak:
    """One run against one server."""

    def __init__(self, server: Running, http: aiohttp.ClientSession) -> None:
        self._server, self._http = server, http
        self._chance = random.Random(0)
        self.counts, self.twins = Counts(), dict[Ask, bytes]()
        self.jobs = Jobs(http, self.counts, self.twins)
        self.watch = Watch(server.process.pid)

    async def prepare(self) -> None:
        """Draw every request alone; it is what the same request must get later."""
        chance = random.Random(1)
        for number in range(_DIFFERENT):
            ask = random_ask(chance, number)
            status, picture = await send(self._http, ask)
            if status != 200:
                raise click.ClickException(f"{ask}: {status}: {picture[:500]!r}")
            self.twins[ask] = picture

    async def peak(self) -> float:
        """Images per second of a closed loop of all dialects."""
        done, end = itertools.count(), time.perf_counter() + _PEAK_SECONDS
        asks = list(self.twins)

        async def client(number: int) -> None:
            turn = random.Random(number)
            while time.perf_counter() < end:
                await send(self._http, replace(turn.choice(asks), seed=turn.randrange(2**32)))
                next(done)

        await asyncio.gather(*(client(number) for number in range(_PEAK_CLIENTS)))
        return next(done) / _PEAK_SECONDS

    async def run(self, rate: float, seconds: float) -> None:
        """Send at this rate for so long, with faults, and wait for every end."""
        began, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        kinds = Kinds(self._http, self.counts, self.twins, self.jobs, self._chance)
        following = asyncio.create_task(self.jobs.follow())
        await asyncio.wait_for(self.jobs.following.wait(), _END_SECONDS)
        beside = [
            asyncio.create_task(each)
            for each in (self.watch.sample_often(), self._kill(), self._unload())
        ]
        due = began
        while (now := time.perf_counter()) < began + seconds:
            await asyncio.sleep(max(due - now, 0))
            task = asyncio.create_task(kinds.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += self._chance.expovariate(rate)
        for task in beside:
            task.cancel()
        for stopped in await asyncio.gather(*beside, return_exceptions=True):
            if not isinstance(stopped, asyncio.CancelledError):
                self.counts.wrong.append(f"a fault or a sample: {stopped!r}")
        await self._finish(tasks)
        await self.jobs.settle(_END_SECONDS)
        following.cancel()
        await self._all_over()

    async def _finish(self, tasks: set[asyncio.Task[None]]) -> None:
        """Await what was sent; what has no end is wrong, and so is what broke here."""
        if not tasks:
            return
        done, endless = await asyncio.wait(tasks, timeout=_END_SECONDS)
        if endless:
            async with self._http.get("/engine") as answer:
                told = (await answer.text())[:2000]
            self.counts.wrong.append(f"{len(endless)} requests have no end: {told}")
        for task in endless:
            task.cancel()
        for task in done:
            if error := task.exception():
                self.counts.wrong.append(f"a request: {error!r}")

    async def _kill(self) -> None:
        while True:
            await asyncio.sleep(_KILL_SECONDS)
            self._chance.choice(self.watch.workers()).kill()
            self.counts.faults["workers killed"] += 1

    async def _unload(self) -> None:
        while True:
            await asyncio.sleep(_UNLOAD_SECONDS)
            for what in ("unload", "load"):
                async with self._http.post(f"/models/twin/{what}") as answer:
                    if answer.status != 200:
                        self.counts.wrong.append(f"{what}: {answer.status}")
                self.counts.faults[f"a model {what}ed"] += 1

    async def _all_over(self) -> None:
        """What clients left must have ended, too."""
        end = time.perf_counter() + _END_SECONDS
        while time.perf_counter() < end:
            async with self._http.get("/engine") as answer:
                state = await answer.json()
            if not (state["jobs"] or state["running"]):
                return
            await asyncio.sleep(0.2)
        self.counts.wrong.append(f"still under way: {state['jobs']} requests")


async def _soak(server: Running, seconds: float, out: Path) -> list[str]:
    """What was wrong."""
    timeout = aiohttp.ClientTimeout(total=300)
    # Sooner than the server does: a request must not meet the end of an idle connection.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=1)
    async with aiohttp.ClientSession(
        server.url, timeout=timeout, connector=connector, read_bufsize=1 << 20
    ) as http:
        soak = Soak(server, http)
        await soak.prepare()
        peak = await soak.peak()
        click.echo(f"{peak:.1f} images/s at most; {_LOAD * peak:.1f} requests/s for {seconds:g} s")
        await soak.run(_LOAD * peak, seconds)
    growth, grew = soak.watch.growth()
    wrong = soak.counts.wrong + grew
    lines = ["# A long run with faults", "", f"Written by `python -m {__spec__.name}`.", ""]
    lines += [*table(("", ""), about(seconds).items()), ""]
    lines += [
        f"The closed loop of {_PEAK_CLIENTS} clients gets {peak:.1f} images/s. Sent were "
        f"{_LOAD * peak:.1f} requests/s. Each picture was compared with its twin.",
        "",
        *table(("requests", "sent", "ended right", "refused (429)", "left"), soak.counts.rows()),
        "",
        *table(("fault", "times"), [(n, str(k)) for n, k in soak.counts.faults.items()]),
        "",
        *table(("", "after the first minute", "at the end", "largest"), growth),
        "",
        f"Wrong: {len(wrong)}.",
        *(f"- {each}" for each in wrong[:_MOST_SHOWN]),
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "soak.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo("\n".join(lines))
    return wrong


@click.command()
@click.option("--minutes", type=float, default=10.0, show_default=True)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(minutes: float, out: Path) -> None:
    """Run it, and write what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(WEIGHTS / "digits", Path(folder) / "models" / "twin")
        settings = {
            "DARKROOM_MODEL_FOLDERS": f"{folder}/models",
            "DARKROOM_STATE_FOLDER": folder,
        }
        with running(replace(SERVERS[OURS], settings=settings)) as server:
            server.wait(server.server.ready)
            wrong = asyncio.run(_soak(server, minutes * 60, out))
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
