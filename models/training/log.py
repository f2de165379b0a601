"""What a run says of itself."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from models.training.pictures import save_grid
from models.training.recipe import Optimisation


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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._lines.close()
        self._board.close()

    def step(self, step: int, figures: dict[str, Tensor | float]) -> None:
        """Count a step; every `log_every` of them, write what it measured."""
        self._bar.update()
        if step % self._options.log_every and step != self._options.steps:
            return
        elapsed = time.monotonic() - self._since
        known = {name: float(value) for name, value in figures.items()}
        known["images_per_second"] = (step - self._at) * self._options.batch_size / elapsed
        self._since, self._at = time.monotonic(), step
        self._bar.set_postfix(loss=f"{known['loss']:.4g}")
        self._write(step, "train", known)

    def report(self, step: int, figures: dict[str, float]) -> None:
        """Write what was measured on held-out images."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        tqdm.write(f"step {step}: {shown}")
        self._write(step, "test", figures)
        self._since, self._at = time.monotonic(), step

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


def _until(path: Path, step: int) -> Iterator[str]:
    """The lines of a log up to a step; a kill may have torn the last."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except ValueError:
            return
