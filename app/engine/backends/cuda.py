"""A CUDA graph for every bucket: UNet, guidance and DDIM update in one launch.

The host runs one tick ahead of the device and waits for nothing else; decoding has a stream of its
own, so that it does not hold up the ticks.
"""

from collections import deque
from dataclasses import fields

import torch
from torch import Tensor

from app.engine.backends.base import Decoding, Rows, Slots, advance, develop, unet_network
from models.pipeline import LatentDiffusion

_AHEAD = 2  # at most this many ticks begun but not finished
_WARM_RUNS = 3  # before a capture; libraries choose their kernels and allocate in them


class CudaGraphs:
    """Captures each bucket when it is first seen."""

    name = "cuda-graphs"
    buckets: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128)
    decode_buckets: tuple[int, ...] = (1, 4, 16)

    def __init__(self, model: LatentDiffusion, *, compiled: bool) -> None:
        torch.cuda.set_device(model.device)  # streams, events and captures are the current device's
        model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.vae.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compiled:
            self.name = "cuda-graphs, compiled"
            model.unet.compile()
        self._model, self._network = model, unet_network(model)
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Rows]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._begun: deque[torch.cuda.Event] = deque()
        self._decoder = torch.cuda.Stream(model.device)

    def prepare(self) -> None:
        """Nothing: buckets are captured when they are first run."""

    def step(self, slots: Slots, rows: Rows) -> None:
        """Enqueue one step; waits only for the tick before the last."""
        size = len(rows.read)
        if size not in self._graphs:
            self._graphs[size] = self._capture(slots, rows)
        graph, static = self._graphs[size]
        _fill(static, rows)
        graph.replay()
        event = torch.cuda.Event()
        event.record()
        self._begun.append(event)
        if len(self._begun) >= _AHEAD:
            self._begun.popleft().synchronize()

    def decode(self, latents: Tensor) -> Decoding:
        """Enqueue on the stream for decoding, after what made the latents."""
        self._decoder.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._decoder):
            latents.record_stream(self._decoder)
            images = self._model.vae.decode(latents.to(next(self._model.vae.parameters()).dtype))
            return self.fetch(images.float())

    def fetch(self, images: Tensor) -> Decoding:
        """Enqueue on the current stream."""
        made = tuple(
            torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(
                part, non_blocking=True
            )
            for part in develop(images)
        )
        event = torch.cuda.Event()
        event.record()
        return _Decoding(event, (made[0], made[1]))

    def done(self) -> bool:
        """True: `settle` never waits."""
        return True

    def settle(self) -> None:
        """Nothing: the stream keeps the order."""

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self._model.device)

    def _capture(self, slots: Slots, rows: Rows) -> tuple[torch.cuda.CUDAGraph, Rows]:
        """Record one tick over tensors that stay where they are."""
        device = self._model.device
        noise = torch.zeros(len(rows.read), *self._model.latent_shape, device=device)
        tensors = {
            field.name: torch.empty_like(getattr(rows, field.name), device=device)
            for field in fields(Rows)
            if field.name != "noise"
        }
        static = Rows(**tensors, noise=noise)
        _fill(static, rows)
        before, home = slots.x.clone(), torch.cuda.current_stream()
        stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        stream.wait_stream(home)
        try:
            with torch.cuda.stream(stream):
                for _ in range(_WARM_RUNS):
                    advance(slots, static, self._network, self._model)
            home.wait_stream(stream)
            with torch.cuda.graph(graph, pool=self._pool):
                advance(slots, static, self._network, self._model)
        finally:  # a capture that fails may leave its own stream the current one
            torch.cuda.set_stream(home)
            home.wait_stream(stream)
            slots.x.copy_(before)
        return graph, static


class _Decoding:
    """Images on the way to the host."""

    def __init__(self, event: torch.cuda.Event, made: tuple[Tensor, Tensor]) -> None:
        self._event, self._made = event, made

    def done(self) -> bool:
        """Whether they have come."""
        return bool(self._event.query())

    def images(self) -> tuple[Tensor, Tensor]:
        """Pixels and sums."""
        self._event.synchronize()
        return self._made


def _fill(static: Rows, rows: Rows) -> None:
    """Copy a tick from the host into the tensors that a graph reads."""
    for field in fields(Rows):
        target, source = getattr(static, field.name), getattr(rows, field.name)
        if source is None:
            target.zero_()
        else:
            target.copy_(source.pin_memory(), non_blocking=True)
