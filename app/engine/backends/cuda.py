"""CUDA graphs for every bucket: network, guidance and update in one launch.

A graph repeats the launches that were made while it was captured, with the same addresses: what it
reads has its place, and nothing in it may come from the host or go there. The host runs one tick
ahead of the device and waits for nothing else. Decoding has graphs too, and a stream of its own, so
that it does not hold up the ticks.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor

from app.engine.backends.base import (
    WHOLE,
    Decoding,
    InOrder,
    Part,
    Rows,
    Shape,
    Slots,
    advance,
    develop,
    out_of_memory,
    useful,
)
from app.engine.backends.compiling import compile_unet
from app.engine.errors import DeviceLost
from models.memory import activations, available, decoding, denoising
from models.pipeline import LatentDiffusion
from models.samplers import COEFFICIENTS, HISTORY

Made = TypeVar("Made")
Images = tuple[Tensor, Tensor]  # pixels and sums, as `develop` makes them

_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_SHARE = 2  # one bucket may take this part of the free memory; the decoder and other models follow
_ENOUGH = 16 << 30  # bytes of maps in a batch
_WARM_RUNS = 3  # before a capture; libraries choose their kernels and allocate in them
_INTEGERS = ("read", "write", "side", "null", "kept")  # fields of Rows, int64
_FLOATS = ("t", "scale", "coefficients", "noise")  # float32


class CudaGraphs(InOrder):
    """Captures each bucket when it is first seen."""

    name = "cuda-graphs"
    decode_buckets: tuple[int, ...] = (1, 4, 16)

    def __init__(self, model: LatentDiffusion, *, compiled: bool) -> None:
        """Raises `ValueError` where `compiled` needs what is not installed."""
        torch.cuda.set_device(model.device)  # streams, events and captures are the current device's
        if compiled:
            self.name = "cuda-graphs, compiled"
            compile_unet(model.unet, model.device)
        self._model, self.precision, self._network = model, model.precision, model.denoiser
        self._open(model.latent_shape)

    def at(self, shape: Shape) -> Self:
        """Graphs of their own, over the same networks."""
        made = object.__new__(type(self))
        made.name, made.precision = self.name, self.precision
        made._model, made._network = self._model, self._network
        made._open(shape)
        return made

    def _open(self, shape: Shape) -> None:
        """Make room for latents of this shape; what is captured comes later."""
        device = self._model.device
        self.shape, self.buckets = shape, fitting(self._model, shape)
        each = decoding(self._model.vae.config, math.prod(shape[1:]))
        self.decode_buckets = useful(type(self).decode_buckets, each, _ENOUGH)
        self._feed = _Feed(self.buckets[-1], shape, device)
        self._ticks: dict[int, _Tick] = {}
        self._decoders: dict[int, _Decoder] = {}
        # What runs beside a tick shares nothing with it. Ticks go first: a graph's kernels have the
        # priority of the stream that they were captured on.
        self._tick_recorder = _Recorder(torch.cuda.Stream(device, priority=-1))
        self._decode_recorder = _Recorder(torch.cuda.Stream(device))

    def prepare(self) -> None:
        """Return at once: buckets are captured when they are first run."""

    def send(self, values: Tensor) -> Tensor:
        """From pinned memory, without waiting for it; what is there already, as it is."""
        if values.device == self._model.device:
            return values
        return values.pin_memory().to(self._model.device, non_blocking=True)

    def step(self, slots: Slots, rows: Rows, _part: Part = WHOLE) -> None:
        """Enqueue one step; waits only for the tick before this one."""
        size = len(rows.read)
        self._feed.send(rows, slots.waste)
        try:
            if size not in self._ticks:
                self._ticks[size] = self._capture(slots, size)
            tick = self._ticks[size]
            (tick.plain if rows.plain else tick.whole).replay()
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

    def _capture(self, slots: Slots, size: int) -> "_Tick":
        """Ticks of `size` rows; the feed has valid numbers."""
        states = slots.x, slots.x0, slots.history
        before = [state.clone() for state in states]
        try:
            plain, whole = (
                self._tick_recorder.record(functools.partial(advance, slots, rows, self._network))
                for rows in (self._feed.plain(size), self._feed.whole(size))
            )
        finally:
            for state, values in zip(states, before, strict=True):
                state.copy_(values)
        return _Tick(plain[0], whole[0])

    def _capture_decoder(self, latents: Tensor) -> "_Decoder":
        """Of so many latents; they stay as they are."""
        vae, static = self._model.vae, latents.clone()
        dtype = next(vae.parameters()).dtype

        def call() -> Images:
            pixels, sums = develop(vae.decode(static.to(dtype)).float())
            return pixels.contiguous(), sums  # as the host will have them

        graph, made = self._decode_recorder.record(call)
        return _Decoder(graph, static, made)


class _Tick(NamedTuple):
    """The graphs of one bucket: latents alone, or with noise, history and x0 as well.

    What a row of the whole graph does not use has a coefficient of zero.
    """

    plain: torch.cuda.CUDAGraph
    whole: torch.cuda.CUDAGraph


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

    Numbers are packed on the host, in pinned memory, so that one copy brings them, and another one
    noise. Noise that a tick has not stays that of an earlier one: it is finite, and the rows of
    that tick multiply it by zero.
    """

    def __init__(self, most: int, shape: Shape, device: torch.device) -> None:
        """Room for `most` rows."""
        words = self._words(most)
        self._here = torch.empty(words, dtype=torch.int64, pin_memory=True)
        self._there = torch.zeros(words, dtype=torch.int64, device=device)
        self._noise_here = torch.empty(most, *shape, pin_memory=True)
        self._noise_there = torch.zeros(most, *shape, device=device)
        self._views: dict[int, Rows] = {}  # of what is here, by number of rows
        self._copied = torch.cuda.Event(blocking=True)  # who waits for a blocking event sleeps

    def send(self, rows: Rows, waste: int) -> None:
        """Enqueue the copies of a tick; `wait` has to come before the next."""
        size = len(rows.read)
        if size not in self._views:
            self._views[size] = self._rows(self._here, self._noise_here, size)
        view = self._views[size]
        for name in (*_INTEGERS, *_FLOATS):
            value, place = getattr(rows, name), getattr(view, name)
            if value is not None:
                place.copy_(value)
            elif name == "kept":
                place.fill_(waste * HISTORY)
        words = self._words(size)
        self._there[:words].copy_(self._here[:words], non_blocking=True)
        if rows.noise is not None:
            self._noise_there[:size].copy_(self._noise_here[:size], non_blocking=True)
        self._copied.record()

    def wait(self) -> None:
        """Until the last copy is made, and with it every tick that was begun before it."""
        self._copied.synchronize()

    def whole(self, size: int) -> Rows:
        """Where every tick of `size` rows is on the device, with all that one can have."""
        return self._rows(self._there, self._noise_there, size)

    def plain(self, size: int) -> Rows:
        """The same of ticks without noise, history and x0."""
        return replace(self.whole(size), kept=None, noise=None, shown=False)

    def _rows(self, words: Tensor, noise: Tensor, size: int) -> Rows:
        integers = len(_INTEGERS) * size
        floats = words[integers:].view(torch.float32)  # two have the room of an int64
        numbers = floats[: (2 + COEFFICIENTS) * size]
        t, scale, coefficients = numbers.split([size, size, COEFFICIENTS * size])
        return Rows(
            **dict(zip(_INTEGERS, words[:integers].view(-1, size), strict=True)),
            t=t,
            scale=scale,
            coefficients=coefficients.view(size, COEFFICIENTS),
            noise=noise[:size],
            shown=True,
        )

    def _words(self, size: int) -> int:
        """Numbers of 64 bits that a tick of `size` rows takes."""
        return len(_INTEGERS) * size + -(-(2 + COEFFICIENTS) * size // 2)


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


def fitting(model: LatentDiffusion, shape: Shape) -> tuple[int, ...]:
    """The buckets that are useful, and that the device has memory for, by estimates.

    The smallest is among them in any case.
    """
    room, size, unet = available(model.device), shape[1:], model.unet.config
    each = activations(unet, model.vae.config, 1, size)
    return tuple(
        rows
        for rows in useful(_BUCKETS, denoising(unet, size), _ENOUGH)
        if rows == _BUCKETS[0] or room is None or rows * each * _SHARE <= room
    )
