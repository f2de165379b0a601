"""The training loop of both stages: step, log, report, checkpoint, resume; one process or many.

Every random number is a function of (seed, step) and the position in the data is the step itself,
so a checkpoint is model, optimizer, average and step, and a resumed run is the same run.
Several processes (torchrun) each take their rows of the same global batch and average gradients.
"""

import contextlib
import functools
import math
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from models.pipeline import pick_device
from models.training.ema import EMA
from models.training.log import Log
from models.training.options import Optimisation
from models.training.randomness import batch_indices, mix

_NOT_THE_RUN = ("log_every", "report_seconds", "checkpoint_every")  # what changes no weight
Options = TypeVar("Options", bound=Optimisation)


class TrainingError(ValueError):
    """A run cannot start, or cannot go on."""


class Interrupted(TrainingError):
    """Ctrl-C: the run stopped between two steps, its checkpoint written."""


class Task(Protocol):
    """What a stage adds to the loop."""

    size: int  # images to train on

    def loss(
        self, network: nn.Module, indices: Tensor, step: int, rows: slice
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over `rows` of the batch `indices`, and its parts for the log."""

    def report(self, network: nn.Module) -> dict[str, float]:
        """Figures of the averaged network on held-out images."""

    def draw(self, network: nn.Module) -> tuple[Tensor, int]:
        """What the averaged network makes, (N, C, H, W) in [-1, 1], and how many to a row."""


@dataclass(frozen=True)
class Process:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process logs and writes."""
        return self.rank == 0

    def rows(self, batch: int) -> slice:
        """This process's share of a global batch."""
        if batch % self.world:
            raise TrainingError(f"batch_size {batch} is no multiple of {self.world} processes")
        share = batch // self.world
        return slice(self.rank * share, (self.rank + 1) * share)


@contextlib.contextmanager
def processes(device: str) -> Iterator[Process]:
    """Join the other processes if torchrun started several; `device` is cpu, cuda or auto."""
    place = pick_device(device)
    if not dist.is_torchelastic_launched():
        yield Process(0, 1, place)
        return
    dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        rank = dist.get_rank()
        if place.type == "cuda" and place.index is None:
            place = torch.device("cuda", rank % torch.cuda.device_count())
        yield Process(rank, dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()


def fit(
    task: Task,
    network: nn.Module,
    options: Optimisation,
    identity: dict[str, Any],
    out: Path,
    process: Process,
    *,
    resume: bool,
) -> nn.Module:
    """Train `network` and return its moving average.

    Args:
        identity: the recipe as plain values; a run resumes only under the same one.
        out: folder of the run: state.pt, log.jsonl, tensorboard/, samples/.
        resume: go on from `out/state.pt`.

    Raises:
        TrainingError: the folder holds a run and `resume` is false, holds none and it is true, or
            holds one of another recipe; too few images for a batch; or the loss stopped being
            finite.
        Interrupted: SIGINT or SIGTERM; the checkpoint is written.
    """
    if task.size < options.batch_size:
        raise TrainingError(f"{task.size} images do not fill a batch of {options.batch_size}")
    network.to(process.device).train()
    average = EMA(network, options.ema_length)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=options.learning_rate,
        betas=(0.9, 0.99),
        weight_decay=options.weight_decay,
        fused=True,
    )
    state = out / "state.pt"
    first = _restore(state, network, average, optimizer, identity, process, resume=resume)
    parallel = DistributedDataParallel(network) if process.world > 1 else network

    def save(step: int) -> None:
        if log:
            values = {"step": step, "network": network.state_dict(), "identity": identity}
            values |= {"average": average.module.state_dict(), "optimizer": optimizer.state_dict()}
            save_state(state, values)
            log.pictures(step, *task.draw(average.module))

    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(_stop_signals())
        log = stack.enter_context(Log(out, first, options)) if process.main else None
        for step in range(first, options.steps):
            figures = _step(task, parallel, optimizer, options, step, process)
            done = step + 1
            average.update(network, done)
            if log:
                log.step(done, figures)
                if log.report_due() or done == options.steps:
                    log.report(done, functools.partial(task.report, average.module))
            stopped = _anyone(bool(stop), process)
            if done % options.checkpoint_every == 0 or done == options.steps or stopped:
                save(done)
            if stopped:
                raise Interrupted(f"stopped after step {done}; --resume goes on from {state}")
    if process.world > 1:
        dist.barrier()
    return average.module


def _step(
    task: Task,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    options: Optimisation,
    step: int,
    process: Process,
) -> dict[str, Tensor | float]:
    """One optimizer step on this process's share of a batch; returns what the log shows."""
    indices = batch_indices(options.seed, step, options.batch_size, task.size)
    torch.manual_seed(mix(options.seed, "dropout", step * process.world + process.rank))
    rate = learning_rate(options, step)
    for group in optimizer.param_groups:
        group["lr"] = rate
    bfloat16 = options.precision == "bfloat16"
    with torch.autocast(process.device.type, torch.bfloat16, enabled=bfloat16):
        loss, parts = task.loss(network, indices, step, process.rows(options.batch_size))
    loss.backward()
    norm = nn.utils.clip_grad_norm_(network.parameters(), options.clip_norm)
    if not torch.isfinite(norm):
        raise TrainingError(f"step {step}: the gradient is {norm.item()}; lower the rate")
    optimizer.step()
    optimizer.zero_grad()
    return {"loss": loss.detach(), **parts, "norm": norm, "learning_rate": rate}


def fit_batch(options: Options, size: int, process: Process) -> Options:
    """The same options with a batch no larger than the data: a multiple of the processes still.

    Raises:
        TrainingError: fewer images than processes.
    """
    if size >= options.batch_size:
        return options
    batch = size - size % process.world
    if not batch:
        raise TrainingError(f"{size} images to train on, for {process.world} processes")
    return replace(options, batch_size=batch)


def learning_rate(options: Optimisation, step: int) -> float:
    """Linear warm-up, then a cosine down to `final_learning_rate` of the peak."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    progress = (step - options.warmup_steps) / max(options.steps - options.warmup_steps, 1)
    low = options.final_learning_rate
    return options.learning_rate * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def save_state(path: Path, values: Mapping[str, Any]) -> None:
    """Write to a temporary name, flush to the disk, rename: a kill at any point loses nothing."""
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        torch.save(dict(values), file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _restore(
    path: Path,
    network: nn.Module,
    average: EMA,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, Any],
    process: Process,
    *,
    resume: bool,
) -> int:
    if path.exists() != resume:
        hint = "holds a run already; --resume goes on with it" if not resume else "holds no run"
        raise TrainingError(f"{path.parent}: {hint}")
    if not resume:
        path.parent.mkdir(parents=True, exist_ok=True)
        return 0
    saved = torch.load(path, map_location=process.device, weights_only=True)
    if saved["identity"] != identity:
        before = saved["identity"]
        key = next(k for k in identity | before if before.get(k) != identity.get(k))
        raise TrainingError(
            f"{path}: was trained with {key} = {before.get(key)!r}, not {identity.get(key)!r}"
        )
    network.load_state_dict(saved["network"])
    average.module.load_state_dict(saved["average"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def identify(**configs: Any) -> dict[str, Any]:
    """Dataclasses as one flat table of plain values, `name.key` -> value."""
    return {
        f"{name}.{key}": list(value) if isinstance(value, tuple) else value
        for name, config in configs.items()
        for key, value in asdict(config).items()
        if key not in _NOT_THE_RUN
    }


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one dies as usual."""
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, catch)
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _anyone(flag: bool, process: Process) -> bool:
    """Whether any process says so; all of them learn the same."""
    if process.world == 1:
        return flag
    votes = torch.tensor(int(flag), device=process.device)
    dist.all_reduce(votes)
    return bool(votes.item())
