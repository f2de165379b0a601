"""What a run says of itself."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.training.options import Optimisation
from models.training.pictures import save_grid
from models.unet import UNet2D
from models.vae import AutoencoderKL

_ESTIMATED_AFTER = 10  # steps; the first is left out, since it makes what the others find made
_REPORT_SHARE = 0.1  # of the run that may go to reports


class Log:
    """Progress bar, one JSON line a log step, TensorBoard, sample grids.

    A run that goes on after step `first` forgets what was logged beyond it, so its log is that of
    one run. Of several processes the first alone logs, and the loss is that of its rows.
    """

    def __init__(self, out: Path, first: int, options: Optimisation) -> None:
        self._out, self._options = out, options
        path = out / "log.jsonl"
        kept = "".join(f"{line}\n" for line in _until(path, first))
        partial = path.with_suffix(".partial")
        partial.write_text(kept, encoding="utf-8")
        partial.replace(path)
        self._lines = path.open("a", encoding="utf-8", buffering=1)
        self._board = SummaryWriter(out / "tensorboard", purge_step=first + 1)
        self._bar = tqdm(total=options.steps, initial=first, unit="step", disable=None)
        self._since, self._at = time.monotonic(), first
        self._first, self._began = first, self._since
        self._next_report = self._since + options.report_seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._lines.close()
        self._board.close()

    def step(self, step: int, figures: dict[str, Tensor | float]) -> None:
        """Count a step; every `log_every` of them, write what it measured."""
        self._bar.update()
        done = step - self._first
        if done == 1:
            self._began = time.monotonic()
        elif done == _ESTIMATED_AFTER and step < self._options.steps:
            left = self._options.steps - step
            seconds = (time.monotonic() - self._began) / (done - 1) * left
            say(f"step {step} of {self._options.steps}: about {duration(seconds)} to go")
        if step % self._options.log_every and step != self._options.steps:
            return
        elapsed = time.monotonic() - self._since
        known = {name: float(value) for name, value in figures.items()}
        known["images_per_second"] = (step - self._at) * self._options.batch_size / elapsed
        self._since, self._at = time.monotonic(), step
        self._bar.set_postfix(loss=f"{known['loss']:.4g}")
        self._write(step, "train", known)

    def report_due(self) -> bool:
        """Whether it is time for a report: they go by the clock, and take a tenth of it at most."""
        return time.monotonic() >= self._next_report

    def report(self, step: int, measure: Callable[[], dict[str, float]]) -> None:
        """Measure on held-out images and write the figures."""
        began = time.monotonic()
        figures = measure()
        now = time.monotonic()
        wait = (now - began) * (1 / _REPORT_SHARE - 1)
        self._next_report = now + max(self._options.report_seconds, wait)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        say(f"step {step}: {shown}")
        self._write(step, "test", figures)
        self._since, self._at = now, step

    def pictures(self, step: int, images: Tensor, columns: int) -> None:
        """Write a grid of what the network makes."""
        folder = self._out / "samples"
        folder.mkdir(exist_ok=True)
        save_grid(images, columns, folder / f"{step:07d}.png")
        self._since, self._at = time.monotonic(), step

    def _write(self, step: int, kind: str, figures: dict[str, float]) -> None:
        images = step * self._options.batch_size
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        line = {"step": step, "images": images, "kind": kind, **rounded}
        self._lines.write(json.dumps(line) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)


def say(line: str) -> None:
    """Print a line above the progress bar."""
    tqdm.write(line)


def describe(network: AutoencoderKL | UNet2D, options: Optimisation) -> str:
    """One line: how large a network is, and on how much it is trained."""
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    widths = ", ".join(map(str, network.config.block_out_channels))
    return (
        f"{network.config.class_name} with widths {widths}: {millions:.1f} million parameters; "
        f"{options.images} images, repeats counted, in {options.steps} batches of "
        f"{options.batch_size}"
    )


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _until(path: Path, step: int) -> Iterator[str]:
    """The lines of a log up to a step; a kill may have torn the last."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except ValueError:
            return
