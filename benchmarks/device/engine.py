"""The engine of the digits without a server, over the backend for CUDA."""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.backends.cuda import CudaGraphs
from app.engine.runner import Runner
from benchmarks.device.findings import Row, Setting
from benchmarks.device.precision import Precision
from models.library import find
from models.pipeline import LatentDiffusion

SLOTS = 64
SMALL_BUCKETS = (2, 4, 16)


class Digits(LatentDiffusion):
    """The model that ships; the noise of seeds in `bad` is not finite."""

    bad: frozenset[int] = frozenset()

    def start(
        self, seed: int, shape: tuple[int, int, int] | None = None
    ) -> tuple[Tensor, torch.Generator]:
        """As the model itself, unless the seed is bad."""
        noise, generator = super().start(seed, shape)
        return torch.full_like(noise, torch.nan) if seed in self.bad else noise, generator


@torch.inference_mode(mode=False)  # weights are plain tensors, as in a worker
def open_digits(setting: Setting, precision: Precision) -> Digits:
    """The model alone."""
    return Digits.open(
        find("digits"),
        device=setting.on,
        dtype=precision.dtype,
        tf32=precision.tf32,
    )


@dataclass
class Engine:
    """A model, its backend, and the runner over both."""

    model: LatentDiffusion
    backend: CudaGraphs
    runner: Runner

    @property
    def buckets(self) -> list[Row]:
        """Every bucket of the backend; those that are not used have other bits, or no room."""
        used = {bucket.rows: bucket.seconds for bucket in self.runner.info.costs.buckets}
        return [
            {"rows": rows, "used": rows in used}
            | ({"ms": round(used[rows] * 1000, 3), "rows/s": round(rows / used[rows])}
               if rows in used else {"ms": None, "rows/s": None})
            for rows in sorted({*self.backend.buckets, *used})
        ]  # fmt: skip


def open_engine(
    setting: Setting,
    model: LatentDiffusion,
    *,
    slots: int = SLOTS,
    buckets: tuple[int, ...] | None = None,
    compiled: bool = False,
    kind: type[CudaGraphs] = CudaGraphs,
) -> Engine:
    """A warm engine over a model."""
    backend = kind(model, compiled=compiled)
    if buckets or setting.small:
        wanted = buckets or SMALL_BUCKETS  # as far as there is room
        backend.buckets = tuple(rows for rows in wanted if rows <= backend.buckets[-1])
    runner = Runner("model", model, "0" * 64, backend, slots)
    runner.warm_up()
    return Engine(model, backend, runner)
