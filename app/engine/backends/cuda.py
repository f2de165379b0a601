"""A CUDA graph for every bucket: UNet, guidance and DDIM update in one launch.

A graph repeats the launches that were made while it was captured, with the same addresses: what it
reads has its place, and nothing in it may come from the host or go there. The host runs one tick
ahead of the device and waits for nothing else. Decoding has graphs too, and a stream of its own, so
that it does not hold up the ticks.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from app.engine.backends.base import (
    WHOLE,
    Decoding,
    InOrder,
    Part,
    Rows,
    Slots,
    advance,
    develop,
    out_of_memory,
    unet_network,
)
from app.engine.backends.compiling import compile_unet
from app.engine.errors import DeviceLost
from models.ddim import COEFFICIENTS
from models.memory import activations, available
from models.pipeline import LatentDiffusion

Made = TypeVar("Made")
Images = tuple[Tensor, Tensor]  # pixels and sums, as `develop` makes them

_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARE = 2  # one bucket may take this part of the free memory; the decoder and other models follow
_WARM_RUNS = 3  # before a capture; libraries choose their kernels and allocate in them
_INTEGERS = ("read", "write", "t", "label", "null")  # fields of Rows, int64


class CudaGraphs(InOrder):
    """Captures each bucket when it is first seen."""

    name = "cuda-graphs"
    decode_buckets: tuple[int, ...] = (1, 4, 16)

    def __init__(self, model: LatentDiffusion, *, compiled: bool) -> None:
        """Raises `ValueError` where `compiled` needs what is not installed."""
        torch.cuda.set_device(model.device)  # streams, events and captures are the current device's
        if compiled:
            self.name = "cuda-graphs, compiled"
            # Only here: compiled group norm keeps this layout, PyTorch's own gives it up each time.
            model.unet.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            compile_unet(model.unet, model.device)
        self.buckets = fitting(model)
        self._model, self._network = model, unet_network(model)
        self._feed = _Feed(self.buckets[-1], model)
        self._ticks: dict[int, tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]] = {}
        self._decoders: dict[int, _Decoder] = {}
        # What runs beside a tick shares nothing with it. Ticks go first: a graph's kernels have the
        # priority of the stream that they were captured on.
        self._tick_recorder = _Recorder(torch.cuda.Stream(model.device, priority=-1))
        self._decode_recorder = _Recorder(torch.cuda.Stream(model.device))

    def prepare(self) -> None:
        """Nothing: buckets are captured when they are first run."""

    def send(self, values: Tensor) -> Tensor:
        """From pinned memory, without waiting for it."""
        return values.pin_memory().to(self._model.device, non_blocking=True)

    def step(self, slots: Slots, rows: Rows, _part: Part = WHOLE) -> None:
        """Enqueue one step; waits only for the tick before this one."""
        size, noisy = len(rows.read), rows.noise is not None
        self._feed.send(rows)
        try:
            if size not in self._ticks:
                self._ticks[size] = self._capture(slots, size)
            self._ticks[size][noisy].replay()
        finally:
            self._feed.wait()

    def decode(self, latents: Tensor, _part: int = 0) -> Decoding:
        """Enqueue on the stream for decoding, after what made the latents."""
        size, stream = len(latents), self._decode_recorder.stream
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            latents.record_stream(stream)
            if size not in self._decoders:
                self._decoders[size] = self._capture_decoder(latents)
            return _bring(self._decoders[size](latents))

    def fetch(self, images: Tensor) -> Decoding:
        """Enqueue on the current stream."""
        return _bring(develop(images))

    def synchronize(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self._model.device)

    def _capture(
        self, slots: Slots, size: int
    ) -> tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]:
        """One tick of `size` rows, without noise and with; the feed has valid numbers."""
        noisy = self._feed.rows(size)
        before, made = (slots.x.clone(), slots.x0.clone()), []
        try:
            for rows in (replace(noisy, noise=None), noisy):
                call = functools.partial(advance, slots, rows, self._network, self._model)
                made.append(self._tick_recorder.record(call)[0])
        finally:
            slots.x.copy_(before[0])
            slots.x0.copy_(before[1])
        return made[0], made[1]

    def _capture_decoder(self, latents: Tensor) -> "_Decoder":
        """Of so many latents; they stay as they are."""
        vae, static = self._model.vae, latents.clone()
        dtype = next(vae.parameters()).dtype

        def call() -> Images:
            pixels, sums = develop(vae.decode(static.to(dtype)).float())
            return pixels.contiguous(), sums  # as the host will have them

        graph, made = self._decode_recorder.record(call)
        return _Decoder(graph, static, made)


class _Recorder:
    """Captures graphs that never run at the same time, on one stream and into one pool of memory.

    Libraries keep a workspace per stream, and captures hold its address: graphs of another stream
    may run beside these, and need a pool of their own.
    """

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self.stream = stream
        self._pool = torch.cuda.graph_pool_handle()
        # None is freed before all are: PyTorch then frees the workspace of the capture's stream,
        # which the others still use (pytorch issue 193402).
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def record(self, call: Callable[[], Made]) -> tuple[torch.cuda.CUDAGraph, Made]:
        """A graph of what `call` does, and what it returned: tensors that each replay fills.

        The current stream waits for the warm runs.

        Raises:
            DeviceLost: a capture failed. PyTorch may go on allocating for it, so that nothing can
                be relied on.
            Exception: of a warm run; or there was no memory, and the capture has ended in order.
        """
        home, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        self.stream.wait_stream(home)
        try:
            with torch.cuda.stream(self.stream):
                for _ in range(_WARM_RUNS):
                    call()
            return graph, self._capture(graph, call)
        finally:  # a capture that fails may leave its own stream the current one
            torch.cuda.set_stream(home)
            home.wait_stream(self.stream)

    def _capture(self, graph: torch.cuda.CUDAGraph, call: Callable[[], Made]) -> Made:
        raised: Exception | None = None
        try:
            with torch.cuda.graph(graph, pool=self._pool, stream=self.stream):
                try:
                    return call()
                except Exception as error:
                    raised = error
                    raise
        except Exception as error:
            if error is raised and out_of_memory(error):
                raise
            raise DeviceLost(f"a CUDA graph was not captured: {raised or error}") from error


class _Feed:
    """The numbers and the noise of one tick: in one place on the device, which graphs read.

    They are packed on the host, in pinned memory, so that one copy brings them.
    """

    def __init__(self, most: int, model: LatentDiffusion) -> None:
        """Room for `most` rows."""
        self._shape, self._latent = model.latent_shape, torch.Size(model.latent_shape).numel()
        words = self._words(most, noisy=True)
        self._here = torch.empty(words, dtype=torch.int64, pin_memory=True)
        self._there = torch.zeros(words, dtype=torch.int64, device=model.device)
        self._views: dict[int, Rows] = {}  # of `_here`, by number of rows
        self._copied = torch.cuda.Event(blocking=True)  # who waits for a blocking event sleeps

    def send(self, rows: Rows) -> None:
        """Enqueue the copy of a tick; `wait` has to come before the next."""
        size = len(rows.read)
        if size not in self._views:
            self._views[size] = self._rows(self._here, size)
        for field in fields(Rows):
            value = getattr(rows, field.name)
            if value is not None:
                getattr(self._views[size], field.name).copy_(value)
        words = self._words(size, noisy=rows.noise is not None)
        self._there[:words].copy_(self._here[:words], non_blocking=True)
        self._copied.record()

    def wait(self) -> None:
        """Until the last copy is made, and with it every tick that was begun before it."""
        self._copied.synchronize()

    def rows(self, size: int) -> Rows:
        """A tick of `size` rows on the device, with noise; every tick of this size is there."""
        return self._rows(self._there, size)

    def _rows(self, words: Tensor, size: int) -> Rows:
        integers = len(_INTEGERS) * size
        floats = words[integers:].view(torch.float32)  # two have the room of an int64
        scale, steps, noise = floats[: self._floats(size, noisy=True)].split(
            [size, COEFFICIENTS * size, size * self._latent]
        )
        return Rows(
            **dict(zip(_INTEGERS, words[:integers].view(-1, size), strict=True)),
            scale=scale,
            steps=steps.view(size, COEFFICIENTS),
            noise=noise.view(size, *self._shape),
        )

    def _words(self, size: int, *, noisy: bool) -> int:
        """Numbers of 64 bits that a tick takes."""
        return len(_INTEGERS) * size + -(-self._floats(size, noisy=noisy) // 2)

    def _floats(self, size: int, *, noisy: bool) -> int:
        return size * (1 + COEFFICIENTS + noisy * self._latent)


@dataclass(frozen=True)
class _Decoder:
    """A graph that decodes a fixed number of latents, on the stream it was captured on."""

    graph: torch.cuda.CUDAGraph
    latents: Tensor
    made: Images

    def __call__(self, latents: Tensor) -> Images:
        """Enqueue; the result is overwritten by the next call."""
        self.latents.copy_(latents)
        self.graph.replay()
        return self.made


class _Arriving:
    """Images on the way to the host."""

    def __init__(self, event: torch.cuda.Event, made: Images) -> None:
        self._event, self._made = event, made

    def done(self) -> bool:
        """Whether they have come."""
        return bool(self._event.query())

    def images(self) -> Images:
        """Pixels and sums."""
        self._event.synchronize()
        return self._made


def _bring(made: Images) -> _Arriving:
    """Enqueue the copies to the host on the current stream."""
    pixels, sums = (
        torch.empty(part.shape, dtype=part.dtype, pin_memory=True).copy_(part, non_blocking=True)
        for part in made
    )
    event = torch.cuda.Event(blocking=True)
    event.record()
    return _Arriving(event, (pixels, sums))


def fitting(model: LatentDiffusion) -> tuple[int, ...]:
    """The buckets that the device has memory for, by an estimate; the smallest in any case."""
    room = available(model.device)
    each = activations(model.unet.config, model.vae.config, rows=1)
    return tuple(
        size
        for size in _BUCKETS
        if size == _BUCKETS[0] or room is None or size * each * _SHARE <= room
    )
