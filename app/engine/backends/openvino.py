"""OpenVINO on the CPU: each bucket a graph of its own, compiled for its one shape.

Static shapes are three to four times as fast as eager PyTorch for a single row, and a row's bits
were the same at every batch size tried (docs/decisions.md).
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from app.engine.backends.base import (
    WHOLE,
    Decoded,
    Decoding,
    Part,
    Rows,
    Shape,
    Slots,
    TooLittleMemory,
    develop,
    update,
    useful,
)
from app.engine.backends.winograd import Winograd
from app.engine.errors import DeviceLost
from models.denoiser import Denoiser
from models.machine import free_memory, usable_cores
from models.memory import decoding, denoising
from models.pipeline import LatentDiffusion
from models.tiles import decode_in_tiles, spans, tile_side, whole

_EXAMPLE_ROWS = 2
_EXAMPLE_SIDE = 8  # of latents that networks are traced with: eager PyTorch is slow at large ones
_TIMESTEPS = 4096  # whose embeddings are kept: 1 KiB each, for the shipped model
_ROWS_A_PART = 4  # with fewer rows per core, all cores together are faster
# Sets of buckets, the best first. The kernels for one row round otherwise, so that none has one.
# The last are for networks whose maps are so large that sixteen rows are more than is useful.
_BUCKETS = ((2, 4, 8, 16, 24, 32, 48), (4, 16, 32), (4, 16), (16,), (2, 4), (2,))
_ENOUGH = 4 << 30  # bytes of maps in a batch; with more it only takes longer
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}
_DECODE_BUCKETS = (1, 2, 4)
# What they take, as measured on the shipped model and rounded up. Every shape packs weights anew.
_MOST_BYTES, _FEW = 4 << 30, 2  # of the UNet's graphs, where there are more than a few
_LIBRARY = 64 << 20
_WINOGRAD_COPIES, _DECODER_COPIES = 10, 8
_SPARE = 64 << 20  # left for what grows while it serves


class OpenVino:
    """A compiled UNet and decoder for every bucket.

    From eight rows on a tick is run in parts, one or more cores each, with threads of its own. A
    part decodes between two of its steps: beside them, both would be slower than one after the
    other.
    """

    name = "openvino"

    def __init__(
        self,
        model: LatentDiffusion,
        room: int | None = None,
        *,
        shape: Shape | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take as many buckets as fit into `room` bytes of memory; any where it is None.

        Args:
            model: its networks, in float32.
            room: bytes.
            shape: of latents; the model's own if absent.
            dtype: float32, or bfloat16, to which OpenVINO rounds the UNet's weights and maps.

        Raises:
            TooLittleMemory: none does; the message says how much would be needed.
        """
        torch.set_num_threads(1)  # PyTorch has little left to do; two thread pools would compete
        self._model, self._dtype, self._cores = model, dtype, usable_cores()
        self.shape, self.precision = shape or model.latent_shape, str(dtype).rpartition(".")[2]
        self._begun: dict[int, tuple[Slots, Rows, Tensor, Future[Tensor]]] = {}  # steps, by part
        self._running: dict[int, Future[Tensor]] = {}  # by part: what was begun there last
        self._times = _Times(model.denoiser)
        build, copies = self._unet_graphs()
        self.buckets: tuple[int, ...] = fitting(
            _bytes(model.unet) * copies,
            _bytes(model.vae),
            room,
            denoising(model.unet.config, self.shape[1:]),
        )
        each = decoding(model.vae.config, math.prod(self.shape[1:]))
        self.decode_buckets = useful(_DECODE_BUCKETS, each, _ENOUGH)
        self._most_parts = max(map(self.parts, self.buckets))
        self._waiting = ThreadPoolExecutor(self._most_parts)  # its threads only wait
        self._unet = _Network(build, _HINTS[dtype])
        example = torch.zeros(_EXAMPLE_ROWS, self.shape[0], _EXAMPLE_SIDE, _EXAMPLE_SIDE)
        decoder = convert(_Decoder(model), (example,))
        self._side = tile_side(model.vae.config)
        self._vae = {
            size: _Network(partial(decoder, size=size), _HINTS[dtype]) for size in self._tiles()
        }

    def _tiles(self) -> set[tuple[int, int]]:
        """Heights and widths of latents that the decoder is given: the whole one, or tiles."""
        _, height, width = self.shape
        if whole(height * width, self._side):
            return {(height, width)}
        return {(h, w) for _, h in spans(height, self._side) for _, w in spans(width, self._side)}

    def _unet_graphs(self) -> tuple[Callable[[int], ov.Model], int]:
        """What makes the UNet's graph for a number of rows, and how much larger it is than weights.

        Winograd's transforms would lose what bfloat16 has: eight bits.
        """
        denoiser = self._model.denoiser
        if self._dtype == torch.float32:
            with contextlib.suppress(ValueError):
                return Winograd(denoiser.unet, self.shape[1:]).build, _WINOGRAD_COPIES
        side = max(_EXAMPLE_SIDE, 2 ** len(denoiser.unet.config.block_out_channels))
        latents = torch.zeros(_EXAMPLE_ROWS, self.shape[0], side, side)
        read = (side[:, denoiser.CONDITIONAL] for side in denoiser.blank(_EXAMPLE_ROWS))
        example = latents, self._times([0.0] * _EXAMPLE_ROWS), *read
        build = convert(denoiser.without_time_embedding(), example)
        return partial(build, size=self.shape[1:]), 1

    def at(self, shape: Shape) -> "OpenVino":
        """Graphs of their own, in what memory is free."""
        return OpenVino(self._model, free_memory(), shape=shape, dtype=self._dtype)

    def prepare(self) -> None:
        """Compile every shape, on every core; half a second each."""
        parts = {rows: self.parts(rows) for rows in self.buckets}
        shapes = [(self._unet, rows // of, of) for rows, of in parts.items()]
        shapes += [
            (network, rows, self._most_parts)
            for network in self._vae.values()
            for rows in self.decode_buckets
        ]
        with ThreadPoolExecutor(self._cores) as pool:
            list(pool.map(lambda shape: shape[0].compile(*shape[1:]), reversed(shapes)))

    def parts(self, bucket: int) -> int:
        """As many as there are cores, of at least four rows: pairs fit into an even number.

        One in bfloat16, whose rows had other bits on two streams than on one.
        """
        if self._dtype != torch.float32:
            return 1
        most = max(min(self._cores, bucket // _ROWS_A_PART), 1)
        return next(of for of in range(most, 0, -1) if of == 1 or bucket % (2 * of) == 0)

    def times(self, timesteps: Sequence[float]) -> Tensor:
        """Their embeddings, (R, dim): the network does not make these again in every tick."""
        return self._times(timesteps)

    def step(self, slots: Slots, rows: Rows, part: Part = WHOLE) -> None:
        """Begin one step: what the caller does next, it does while the UNet runs."""
        request = self._unet.request(len(rows.read), part.of, part.index)
        latents, times, *conditioning = request.inputs
        torch.index_select(slots.x, 0, rows.read, out=latents)
        times.copy_(rows.t)
        for given, sides in zip(conditioning, slots.sides, strict=True):
            torch.index_select(sides, 0, rows.side, out=given)
        running = self._start(request, part.index)
        self._begun[part.index] = slots, rows, latents, running

    def first(self, parts: Collection[int]) -> int:
        """The first that has nothing left to do."""
        begun = {part: self._running[part] for part in parts if part in self._running}
        if len(begun) == len(parts):
            wait(begun.values(), return_when=FIRST_COMPLETED)
        return next(part for part in parts if part not in begun or begun[part].done())

    def done(self, part: int) -> bool:
        """Whether the UNet has answered, or none was asked."""
        return part not in self._begun or self._begun[part][3].done()

    def settle(self, part: int) -> None:
        """Wait for the UNet's answer and make the update it is for."""
        if part in self._begun:
            slots, rows, latents, running = self._begun.pop(part)
            try:
                update(slots, rows, latents, running.result())
            except Exception as error:  # too late to try again: who rode has been counted on
                raise DeviceLost(f"OpenVINO: {error}") from error

    def decode(self, latents: Tensor, part: int = 0) -> Decoding:
        """Begin to decode, on as many cores as the smallest part has."""
        if (size := (latents.shape[2], latents.shape[3])) in self._vae:
            request = self._vae[size].request(len(latents), self._most_parts, part)
            request.inputs[0].copy_(latents)
            return _Decoding(self._start(request, part))
        tile, factor = partial(self._tile, part), self._model.vae.config.downscale
        self._running[part] = self._waiting.submit(
            decode_in_tiles, tile, latents, self._side, factor
        )
        return _Decoding(self._running[part])

    def _tile(self, part: int, latents: Tensor) -> Tensor:
        """Decode one tile, in the thread that waits."""
        size = latents.shape[2], latents.shape[3]
        request = self._vae[size].request(len(latents), self._most_parts, part)
        request.inputs[0].copy_(latents)
        request.start()
        return request.result().clone()

    def fetch(self, images: Tensor) -> Decoding:
        """They are on the host."""
        return Decoded(develop(images))

    def send(self, values: Tensor) -> Tensor:
        """The same: the host is the device."""
        return values

    def synchronize(self) -> None:
        """Wait for the steps that were begun."""
        for part in list(self._begun):
            self.settle(part)

    def _start(self, request: "_Request", part: int) -> "Future[Tensor]":
        # Not in the thread that waits: it would only begin when this one lets go of Python.
        request.start()
        self._running[part] = self._waiting.submit(request.result)
        return self._running[part]


def fitting(a_shape: int, decoder: int, room: int | None, each: int = 0) -> tuple[int, ...]:
    """The buckets whose graphs fit into `room` bytes, or into what is sensible.

    Args:
        a_shape: bytes that a graph of the UNet holds; as many again are its source.
        decoder: bytes of the VAE's weights.
        room: bytes of memory.
        each: bytes of one row's maps; where sixteen are more than is useful, there are few buckets.

    Raises:
        TooLittleMemory: none do.
    """
    fixed = _LIBRARY + _SPARE + decoder * _DECODER_COPIES * len(_DECODE_BUCKETS)
    allowed = [buckets for buckets in _BUCKETS if buckets[-1] * each <= _ENOUGH]
    for buckets in allowed or _BUCKETS[-1:]:
        held = a_shape * (len(buckets) + 1) + each * buckets[-1]
        sensible = held <= _MOST_BYTES or len(buckets) <= _FEW
        if sensible and (room is None or fixed + held <= room):
            return buckets
    assert room is not None, "the last set is sensible"
    need, free = fixed + held >> 20, room >> 20
    raise TooLittleMemory(
        f"OpenVINO needs {need:,} MiB of memory for this model; {free:,} MiB are free"
    )


def in_bfloat16() -> bool:
    """Whether this processor computes in bfloat16; others would be asked to pretend."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _bytes(network: nn.Module) -> int:
    return sum(weight.nbytes for weight in network.parameters())


class _Times:
    """Time embeddings, each made once and alone: no row's bits depend on others."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._made = denoiser.time_embedding(0.0).repeat(_TIMESTEPS, 1)
        self._places: dict[float, int] = {}

    def __call__(self, timesteps: Sequence[float]) -> Tensor:
        """Those of B timesteps, (B, dim)."""
        if len(self._places) + len(timesteps) > _TIMESTEPS:
            self._places.clear()
        places = np.array([self._place(t) for t in timesteps])
        return self._made[torch.from_numpy(places)]

    def _place(self, t: float) -> int:
        if t not in self._places:
            self._places[t] = len(self._places)
            self._made[self._places[t]] = self._denoiser.time_embedding(t)
        return self._places[t]


class _Network:
    """One network, compiled for each number of rows and of parts when it is first seen."""

    def __init__(self, build: Callable[[int], ov.Model], hint: str) -> None:
        self._build, self._hint = build, hint
        self._requests: dict[tuple[int, int], list[_Request]] = {}

    def request(self, rows: int, of: int, part: int) -> "_Request":
        """What runs `rows` rows on one of so many parts."""
        return (self._requests.get((rows, of)) or self.compile(rows, of))[part]

    def compile(self, rows: int, of: int) -> "list[_Request]":
        """One inference request per part, each with an even share of the cores."""
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self._hint,
            "INFERENCE_NUM_THREADS": usable_cores(),
            "NUM_STREAMS": of,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = ov.Core().compile_model(self._build(rows), "CPU", hints)
        self._requests[rows, of] = [_Request(compiled) for _ in range(of)]
        return self._requests[rows, of]


class _Request:
    """A network's place in memory: inputs are written, then the output is computed from them."""

    def __init__(self, compiled: ov.CompiledModel) -> None:
        self._request = compiled.create_infer_request()
        self.inputs = [
            torch.from_numpy(self._request.get_input_tensor(k).data)
            for k in range(len(compiled.inputs))
        ]

    def start(self) -> None:
        """Begin to compute the output, on OpenVINO's threads."""
        self._request.start_async()

    def result(self) -> Tensor:
        """The output, when it is there, in memory that the next start overwrites."""
        self._request.wait()
        return torch.from_numpy(self._request.get_output_tensor(0).data)


@dataclass(frozen=True)
class _Decoding:
    """Images that a part is decoding."""

    running: "Future[Tensor]"

    def done(self) -> bool:
        """Whether they are there, or will not be, which `images` reports."""
        return self.running.done()

    def images(self) -> tuple[Tensor, Tensor]:
        """Pixels and sums."""
        return develop(self.running.result())


class _Decoder(nn.Module):
    """The decoding half of the VAE as a module with a forward."""

    def __init__(self, model: LatentDiffusion) -> None:
        super().__init__()
        self.vae = model.vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


def convert(module: nn.Module, example: tuple[Tensor, ...]) -> Callable[..., ov.Model]:
    """Trace a module; what comes back makes a model of it for any number of rows.

    Also for maps of another size than the example's, if they are its first input alone.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are constants, and meant to be
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # kept until the model is converted
    model = frontend.convert(frontend.load(decoder))

    def build(rows: int, size: tuple[int, int] | None = None) -> ov.Model:
        made = model.clone()
        shapes = [[rows, *tensor.shape[1:]] for tensor in example]
        if size is not None:
            shapes[0][2:] = size
        made.reshape(dict(zip(made.inputs, shapes, strict=True)))
        return made

    return build
