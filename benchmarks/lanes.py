"""Several lanes on a real device, and what ticks are learned to cost; without a server.

    python -m benchmarks.lanes shares          two models, one dearer; then two sizes of one
    python -m benchmarks.lanes starts          ten quiet starts, one after the other
    python -m benchmarks.lanes busy            a start beside a busy loop of ten seconds

`--quick` takes a tenth of the time, to see that it runs. Prints JSON, one line per measurement.
"""

import dataclasses
import itertools
import json
import multiprocessing
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from app.engine.job import Request, SamplingParams
from app.engine.lanes import Lanes
from app.engine.ledger import Ledger, Limits
from app.engine.model_info import LaneId
from app.engine.pending import Pending
from app.engine.runner import Runner
from app.engine.wire import Load, Progress
from benchmarks.peers.sampling import best_device
from benchmarks.workload import workload
from models.checkpoint import open_checkpoint, save_network
from models.conditioning import Condition
from models.library import find
from models.unet import UNet2D

_CLIENTS = 32  # of each model, always with a request each
_REPORT = 0.2  # seconds
_WIDER = 3.5  # times the channels: ten to fifteen times the time per row
_BUSY = 10.0  # seconds
_SIDE, _LARGER = 32, 64  # pixels
_LOAD = Load({}, best_device(), "float32", "auto", compile=False, slots=64, rows=None)


class Loop:
    """The worker's loop over some models, for clients that ask again as soon as they are served."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.lanes, self.ledger = Lanes(slots=64), Ledger(_LOAD, Limits(10**6, 1e9, 3600))
        runners = [Runner.open(name, folder, _LOAD) for name, folder in folders.items()]
        for runner in runners:
            runner.warm_up()
            self.lanes.add(runner)
        self.ledger.models = {runner.info.name: runner.info for runner in runners}
        self._wanted: dict[LaneId, Iterator[SamplingParams]] = {}
        self._numbers = itertools.count(1)
        self._came: dict[int, tuple[float, float]] = {}  # when, and the seconds foretold
        self.ends: list[tuple[LaneId, float, float]] = []  # seconds foretold, seconds
        self.rows, self.device = Counter[LaneId](), Counter[LaneId]()  # seconds, as expected
        self._reported = time.perf_counter()

    def ask(self, lane: LaneId) -> None:
        """One more request for a lane."""
        wanted = self._wanted.setdefault(lane, _params(lane, len(self._wanted)))
        request, number = Request(next(wanted)), next(self._numbers)
        self._came[number] = time.perf_counter(), self.ledger.expected(request).end
        self.ledger.add(Pending(number, request, request.params.work, None))  # type: ignore[arg-type]
        self.lanes.submit(number, request)

    def run(self, seconds: float) -> None:
        """So many seconds, with whatever was asked for."""
        while wanted := self.lanes.missing():
            if failed := self.lanes.open(wanted):
                raise RuntimeError(failed[0][1])
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            time.sleep(max(self.lanes.due - now, 0.0))
            if lane := self.lanes.next():
                for ended in lane.run(lane.plan(), alone=self.lanes.alone(lane)):
                    raise RuntimeError(ended.reason)
            for lane in self.lanes:
                for ended in lane.deliver():
                    self._answer(ended.job.id, lane.id)
            if now - self._reported >= _REPORT:
                self._report()

    def shares(self, seconds: float) -> None:
        """Tell what each lane has of the device in so many seconds, after as many to settle in."""
        self.run(seconds)
        self.ends.clear()
        rows, device = self.rows.copy(), self.device.copy()
        self.run(seconds)
        had = {lane: self.device[lane] - device[lane] for lane in self.device}
        for lane in had:
            off = [abs(told / took - 1) for name, told, took in self.ends if name == lane]
            _tell(
                lane=lane,
                seconds_per_row=1 / self.ledger.costs(lane).best.rate,
                rows_per_second=(self.rows[lane] - rows[lane]) / seconds,
                share=had[lane] / sum(had.values()),
                requests=len(off),
                forecast_off_at_the_median=statistics.median(off) if off else None,
            )

    def _answer(self, number: int, lane: LaneId) -> None:
        came, foretold = self._came.pop(number)
        self.ends.append((lane, foretold, time.perf_counter() - came))
        self.ledger.forget(self.ledger.requests[number])
        self.ask(lane)

    def _report(self) -> None:
        """As the worker reports to the server."""
        now, made = time.perf_counter(), {}
        for lane in self.lanes:
            made |= lane.scheduler.evaluations
        told = tuple(lane.progress() for lane in self.lanes)
        for each in told:
            self.rows[each.lane] += each.rows
            self.device[each.lane] += each.expected  # type: ignore[assignment]
        self.ledger.heard(Progress(now - self._reported, told, made, {}))
        for number, evaluations in made.items():
            self.ledger.note(self.ledger.requests[number], evaluations)
        self._reported = now


def _params(lane: LaneId, stream: int) -> Iterator[SamplingParams]:
    for one in workload(stream):
        yield SamplingParams(
            model=lane.model,
            condition=Condition(one.label),
            steps=one.steps,
            guidance_scale=one.guidance_scale,
            guidance_interval=(0.0, 1.0),
            eta=0.0,
            seed=one.seed,
            n=1,
            width=lane.width,
            height=lane.height,
        )


def _dear(folder: Path) -> None:
    """Give a copy of the digits a wider UNet, of random weights."""
    config = open_checkpoint(folder).unet.config
    channels = tuple(round(_WIDER * each / 32) * 32 for each in config.block_out_channels)
    torch.manual_seed(0)
    save_network(folder / "unet", UNet2D(dataclasses.replace(config, block_out_channels=channels)))


def _sized(folder: Path) -> None:
    """Let a copy of the digits be asked for larger images; what it draws then, does not matter."""
    index = folder / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"image_sides": [_SIDE, _LARGER]}))


def _tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


@click.group()
def main() -> None:
    """Measure lanes on this machine."""


@main.command()
@click.option("--quick", is_flag=True)
def shares(quick: bool) -> None:
    """What each of two models has of the device, and then each of two sizes of one."""
    seconds = 3.0 if quick else 30.0
    for change, larger in ((_dear, _SIDE), (_sized, _LARGER)):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "changed"
            shutil.copytree(find("digits"), folder)
            change(folder)
            both = {"digits": find("digits"), "changed": folder}
            loop = Loop(both if change is _dear else {"changed": folder})
            first = LaneId(next(iter(loop.ledger.models)), _SIDE, _SIDE)
            for _ in range(_CLIENTS):
                loop.ask(first)
                loop.ask(LaneId("changed", larger, larger))
            loop.shares(seconds)


@main.command()
@click.option("--seconds", default=70.0)
@click.option("--last", default=10.0)
def one(seconds: float, last: float) -> None:
    """One start of the digits: rows per second at the end of so many seconds."""
    loop, lane = Loop({"digits": find("digits")}), LaneId("digits", _SIDE, _SIDE)
    for _ in range(2 * _CLIENTS):
        loop.ask(lane)
    loop.run(seconds - last)
    rows, began = loop.rows[lane], time.perf_counter()
    loop.run(last)
    rate = (loop.rows[lane] - rows) / (time.perf_counter() - began)
    measured, learned = loop.ledger.models["digits"].costs, loop.ledger.costs(lane)
    _tell(
        rows_per_second=rate,
        bucket_measured=measured.best.rows,
        bucket_learned=learned.best.rows,
        measured={b.rows: round(b.seconds * 1000, 2) for b in measured.buckets},
        learned={b.rows: round(b.seconds * 1000, 2) for b in learned.buckets},
    )


def _started(quick: bool) -> dict[str, object]:
    """What one start in a process of its own comes to; it is printed as well."""
    times = ["--seconds", "7", "--last", "2"] if quick else []
    command = [sys.executable, "-m", "benchmarks.lanes", "one", *times]
    line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    told: dict[str, object] = json.loads(line)
    _tell(**told)
    return told


@main.command()
@click.option("--quick", is_flag=True)
@click.option("--count", default=10)
def starts(quick: bool, count: int) -> None:
    """Quiet starts: the slowest of them beside the fastest."""
    rates = [float(str(_started(quick)["rows_per_second"])) for _ in range(2 if quick else count)]
    _tell(slowest_of_fastest=min(rates) / max(rates))


@main.command()
@click.option("--quick", is_flag=True)
def busy(quick: bool) -> None:
    """A start beside a busy loop on every core, and then a quiet one."""
    seconds = _BUSY / 5 if quick else _BUSY
    loops = [multiprocessing.Process(target=_spin, args=(seconds,)) for _ in range(2)]
    for each in loops:
        each.start()
    disturbed = _started(quick)["rows_per_second"]
    for each in loops:
        each.join()
    quiet = _started(quick)["rows_per_second"]
    _tell(disturbed_of_quiet=float(str(disturbed)) / float(str(quiet)))


def _spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


if __name__ == "__main__":
    main()
