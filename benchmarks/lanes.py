"""Several lanes on a real device, and what ticks are learned to cost; without a server.

    python -m benchmarks.lanes shares          two models, one about ten times dearer per row
    python -m benchmarks.lanes starts          ten quiet starts, one after the other
    python -m benchmarks.lanes busy            a start beside a busy loop of ten seconds

`--quick` takes a tenth of the time, to see that it runs. Prints JSON, one line per measurement.
"""

import dataclasses
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch

from app.engine.costs import Costs
from app.engine.job import Request, SamplingParams
from app.engine.lanes import Lanes
from app.engine.ledger import Ledger, Limits
from app.engine.pending import Pending
from app.engine.runner import Runner
from app.engine.wire import Load, Progress
from benchmarks.peers.sampling import best_device
from benchmarks.workload import workload
from models.checkpoint import open_checkpoint, save_checkpoint
from models.conditioning import Condition
from models.library import find
from models.unet import UNet2D

_CLIENTS = 32  # of each model, always with a request each
_REPORT = 0.2  # seconds
_WIDER = 2.4  # times the channels: about ten times the time per row
_BUSY = 10.0  # seconds
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
        self._wanted = {name: _params(name, k) for k, name in enumerate(folders)}
        self._numbers = itertools.count(1)
        self._came: dict[int, tuple[float, float]] = {}  # when, and the seconds foretold
        self.ends: list[tuple[str, float, float]] = []  # model, seconds foretold, seconds
        self.rows: dict[str, int] = dict.fromkeys(folders, 0)
        self.device: dict[str, float] = dict.fromkeys(folders, 0.0)  # seconds of ticks, as expected
        self._reported = time.perf_counter()

    def ask(self, model: str) -> None:
        """One more request for a model."""
        request, number = Request(next(self._wanted[model])), next(self._numbers)
        self._came[number] = time.perf_counter(), self.ledger.expected(request).end
        self.ledger.add(Pending(number, request, request.params.work, None))  # type: ignore[arg-type]
        self.lanes.submit(number, request)

    def run(self, seconds: float) -> None:
        """So many seconds, with whatever was asked for."""
        end = time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            time.sleep(max(self.lanes.due - now, 0.0))
            if lane := self.lanes.next():
                for ended in lane.run(lane.plan(), alone=self.lanes.alone(lane)):
                    raise RuntimeError(ended.reason)
            for lane in self.lanes:
                for ended in lane.deliver():
                    self._answer(ended.job.id, ended.job.params.model)
            if now - self._reported >= _REPORT:
                self._report()

    def costs(self, model: str) -> Costs:
        """What is known of a model's ticks."""
        return self.ledger.costs(self.ledger.models[model].lane)

    def _answer(self, number: int, model: str) -> None:
        came, foretold = self._came.pop(number)
        self.ends.append((model, foretold, time.perf_counter() - came))
        self.ledger.forget(self.ledger.requests[number])
        self.ask(model)

    def _report(self) -> None:
        """As the worker reports to the server."""
        now, made = time.perf_counter(), {}
        for lane in self.lanes:
            made |= lane.scheduler.evaluations
        told = tuple(lane.progress() for lane in self.lanes)
        for each in told:
            self.rows[each.lane.model] += each.rows
            self.device[each.lane.model] += each.expected
        self.ledger.heard(Progress(now - self._reported, told, made, {}))
        for number, evaluations in made.items():
            self.ledger.note(self.ledger.requests[number], evaluations)
        self._reported = now


def _params(model: str, stream: int) -> Iterator[SamplingParams]:
    for one in workload(stream):
        yield SamplingParams(
            model=model,
            condition=Condition(one.label),
            steps=one.steps,
            guidance_scale=one.guidance_scale,
            guidance_interval=(0.0, 1.0),
            eta=0.0,
            seed=one.seed,
            n=1,
            width=32,
            height=32,
        )


def _dear(folder: Path) -> Path:
    """A folder with digits' autoencoder and a wider UNet of random weights."""
    opened = open_checkpoint(find("digits"))
    config = opened.unet.config
    channels = tuple(round(_WIDER * each / 32) * 32 for each in config.block_out_channels)
    torch.manual_seed(0)
    unet = UNet2D(dataclasses.replace(config, block_out_channels=channels))
    save_checkpoint(
        folder,
        vae=opened.vae,
        unet=unet,
        schedule=opened.schedule,
        classes=tuple(opened.classes.names),
        guidance_scale=opened.guidance_scale,
    )
    return folder


def _tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


@click.group()
def main() -> None:
    """Measure lanes on this machine."""


@main.command()
@click.option("--quick", is_flag=True)
def shares(quick: bool) -> None:
    """What each of two models has of the device, and how well ends are foretold."""
    seconds = 3.0 if quick else 30.0
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop({"digits": find("digits"), "dear": _dear(Path(folder))})
        for model in loop.rows:
            for _ in range(_CLIENTS):
                loop.ask(model)
        loop.run(seconds)
        loop.ends.clear()
        rows, device = dict(loop.rows), dict(loop.device)
        loop.run(seconds)
        had = {model: loop.device[model] - device[model] for model in device}
        for model in had:
            off = [abs(told / took - 1) for name, told, took in loop.ends if name == model]
            _tell(
                model=model,
                seconds_per_row=1 / loop.costs(model).best.rate,
                rows_per_second=(loop.rows[model] - rows[model]) / seconds,
                share=had[model] / sum(had.values()),
                requests=len(off),
                forecast_off_at_the_median=statistics.median(off) if off else None,
            )


@main.command()
@click.option("--seconds", default=70.0)
@click.option("--last", default=10.0)
def one(seconds: float, last: float) -> None:
    """One start of the digits: rows per second at the end of so many seconds."""
    loop = Loop({"digits": find("digits")})
    for _ in range(2 * _CLIENTS):
        loop.ask("digits")
    loop.run(seconds - last)
    rows, began = loop.rows["digits"], time.perf_counter()
    loop.run(last)
    rate = (loop.rows["digits"] - rows) / (time.perf_counter() - began)
    measured, learned = loop.ledger.models["digits"].costs, loop.costs("digits")
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
