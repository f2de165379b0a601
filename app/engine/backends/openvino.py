"""OpenVINO on the CPU: each bucket a graph of its own, compiled for its one shape.

Static shapes are three to four times as fast as eager PyTorch for a single row, and a row's bits
were the same at every batch size tried (docs/decisions.md).
"""

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import Tensor, nn

from app.engine.backends.base import (
    Decoded,
    Decoding,
    Rows,
    Slots,
    TooLittleMemory,
    develop,
    update,
)
from app.engine.backends.winograd import Winograd
from app.engine.job import DeviceLost
from models.machine import usable_cores
from models.pipeline import LatentDiffusion

_EXAMPLE_ROWS = 2
_ROWS_A_STREAM = 4  # from this many rows per core on, one stream per core is faster
# Sets of buckets, the best first. The kernels for one row round otherwise, so that none has one.
_BUCKETS = ((2, 4, 8, 16, 24, 32, 48), (4, 16, 32), (4, 16), (16,))
_DECODE_BUCKETS = (1, 2, 4, 16)
# What they take, as measured on the shipped model and rounded up. Every shape packs weights anew.
_MOST_BYTES, _FEW = 4 << 30, 2  # of the UNet's graphs, where there are more than a few
_LIBRARY = 64 << 20
_WINOGRAD_COPIES, _DECODER_COPIES = 10, 8
_SPARE = 64 << 20  # left for what grows while it serves


class OpenVino:
    """A compiled UNet and decoder for every bucket."""

    name = "openvino"
    decode_buckets: tuple[int, ...] = _DECODE_BUCKETS

    def __init__(self, model: LatentDiffusion, room: int | None = None) -> None:
        """Take as many buckets as fit into `room` bytes of memory; any where it is None.

        Raises:
            TooLittleMemory: none does; the message says how much would be needed.
        """
        torch.set_num_threads(1)  # PyTorch has little left to do; two thread pools would compete
        self._model = model
        self._begun: tuple[Slots, Rows, Tensor, _Running] | None = None
        latents = torch.zeros(_EXAMPLE_ROWS, *model.latent_shape)
        counts = torch.zeros(_EXAMPLE_ROWS, dtype=torch.int64)
        self._labelled = model.unet.class_embedding is not None
        inputs = (latents, counts, counts) if self._labelled else (latents, counts)
        build: Callable[[int], ov.Model]
        copies = _WINOGRAD_COPIES
        try:
            build = Winograd(model.unet, model.schedule.num_train_timesteps).build
        except ValueError:
            build, copies = convert(model.unet, inputs), 1
        a_shape, decoder = _bytes(model.unet) * copies, _bytes(model.vae)
        self.buckets: tuple[int, ...] = fitting(a_shape, decoder, room)
        self._unet = _Network(build)
        self._vae = _Network(convert(_Decoder(model), (latents,)))

    def prepare(self) -> None:
        """Compile every shape, on every core; half a second each."""
        shapes = [(self._unet, rows) for rows in reversed(self.buckets)]
        shapes += [(self._vae, rows) for rows in self.decode_buckets]
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(lambda shape: shape[0].compile(shape[1]), shapes))

    def step(self, slots: Slots, rows: Rows) -> None:
        """Begin one step: what the caller does next, it does while the UNet runs."""
        self.settle()
        latents = slots.x[rows.read]
        inputs = (latents, rows.t, rows.label) if self._labelled else (latents, rows.t)
        self._begun = slots, rows, latents, self._unet.begin(*inputs)

    def done(self) -> bool:
        """Whether the UNet has answered, or none was asked."""
        return self._begun is None or self._begun[3].done()

    def settle(self) -> None:
        """Wait for the UNet's answer and make the update it is for."""
        if self._begun is not None:
            (slots, rows, latents, running), self._begun = self._begun, None
            try:
                output = running.result()
            except Exception as error:  # too late to try again: who rode has been counted on
                raise DeviceLost(f"OpenVINO: {error}") from error
            update(slots, rows, latents, output, self._model)

    def decode(self, latents: Tensor) -> Decoding:
        """Decode at once: beside a step, both would be slower than one after the other."""
        return self.fetch(self._vae.begin(latents).result())

    def fetch(self, images: Tensor) -> Decoding:
        """They are on the host."""
        return Decoded(develop(images))

    def synchronize(self) -> None:
        """Wait for the step that was begun."""
        self.settle()


def fitting(a_shape: int, decoder: int, room: int | None) -> tuple[int, ...]:
    """The buckets whose graphs fit into `room` bytes, or into what is sensible.

    Args:
        a_shape: bytes that a graph of the UNet holds; as many again are its source.
        decoder: bytes of the VAE's weights.

    Raises:
        TooLittleMemory: none do.
    """
    fixed = _LIBRARY + _SPARE + decoder * _DECODER_COPIES * len(_DECODE_BUCKETS)
    for buckets in _BUCKETS:
        held = a_shape * (len(buckets) + 1)
        sensible = held <= _MOST_BYTES or len(buckets) <= _FEW
        if sensible and (room is None or fixed + held <= room):
            return buckets
    assert room is not None, "the last set is sensible"
    need, free = fixed + held >> 20, room >> 20
    raise TooLittleMemory(
        f"OpenVINO needs {need:,} MiB of memory for this model; {free:,} MiB are free"
    )


def _bytes(network: nn.Module) -> int:
    return sum(weight.nbytes for weight in network.parameters())


class _Network:
    """One network, compiled for each number of rows when it is first seen."""

    def __init__(self, build: Callable[[int], ov.Model]) -> None:
        self._build = build
        self._requests: dict[int, list[ov.InferRequest]] = {}

    def begin(self, *inputs: Tensor) -> "_Running":
        """Start on rows."""
        rows = len(inputs[0])
        requests = self._requests.get(rows) or self.compile(rows)
        share = rows // len(requests)
        for k, request in enumerate(requests):
            part = [tensor[k * share : (k + 1) * share].numpy() for tensor in inputs]
            request.start_async(part, share_inputs=True)
        return _Running(requests)

    def compile(self, rows: int) -> "list[ov.InferRequest]":
        """Inference requests that share the rows: one with all cores, or one per core."""
        cores = usable_cores()
        streams = max(min(cores, rows // _ROWS_A_STREAM), 1)
        while rows % streams:
            streams -= 1
        hints: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": streams,
        }
        compiled = ov.Core().compile_model(self._build(rows // streams), "CPU", hints)
        self._requests[rows] = [compiled.create_infer_request() for _ in range(streams)]
        return self._requests[rows]


class _Running:
    """Rows that OpenVINO's own threads are computing."""

    def __init__(self, requests: "Sequence[ov.InferRequest]") -> None:
        self._requests = requests

    def done(self) -> bool:
        """Whether they are done, or failed, which `result` reports."""
        try:
            return all(request.wait_for(0) for request in self._requests)
        except Exception:
            return True

    def result(self) -> Tensor:
        """The rows' output."""
        for request in self._requests:
            request.wait()
        outputs = [request.get_output_tensor(0).data for request in self._requests]
        return torch.from_numpy(np.concatenate(outputs))


class _Decoder(nn.Module):
    """The decoding half of the VAE as a module with a forward."""

    def __init__(self, model: LatentDiffusion) -> None:
        super().__init__()
        self.vae = model.vae

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents)


def convert(module: nn.Module, example: tuple[Tensor, ...]) -> Callable[[int], ov.Model]:
    """Trace a module; what comes back makes a model of it for any number of rows."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shapes are constants, and meant to be
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # kept until the model is converted
    model = frontend.convert(frontend.load(decoder))

    def build(rows: int) -> ov.Model:
        made = model.clone()
        shapes = [[rows, *tensor.shape[1:]] for tensor in example]
        made.reshape(dict(zip(made.inputs, shapes, strict=True)))
        return made

    return build
