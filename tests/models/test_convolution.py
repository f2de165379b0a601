"""Our convolutions against PyTorch's, by Triton's interpreter: there is no GPU."""

import itertools
import shutil
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import convolution, layers
from models.convolution import choose_tile, convolve, project
from models.pipeline import LatentDiffusion
from tests.models.test_parity import TOLERANCE, relative

# Shared memory of one block of threads, KiB: Hopper, A100, Ada, Turing.
ROOMS = (227, 163, 99, 64)

# Batch, channels, height, width, filters, kernel, stride, padding.
SHAPES = (
    (2, 64, 8, 8, 128, 3, 1, 1),
    (3, 4, 9, 7, 20, 3, 1, 1),  # few channels, odd sides
    (2, 32, 8, 8, 64, 3, 2, 1),
    (2, 32, 9, 7, 40, 3, 2, 1),
    (2, 16, 9, 9, 8, 3, 2, 0),
    (3, 16, 5, 6, 300, 3, 1, 0),
    (2, 70, 5, 6, 33, 1, 1, 0),
    (2, 8, 1, 1, 8, 3, 1, 1),
    (2, 200, 4, 4, 24, 3, 1, 1),  # long sums
)


def drawn(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    batch, channels, height, width, filters, kernel = shape[:6]
    x = torch.randn(batch, channels, height, width)
    weight = torch.randn(filters, channels, kernel, kernel) / (channels * kernel**2) ** 0.5
    return x.to(dtype), weight.to(dtype), torch.randn(filters).to(dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("dtype", "least"), [(torch.float32, 2**-20), (torch.float16, 2**-10)], ids=str
)
def test_they_compute_what_pytorch_does(
    shape: tuple[int, ...], dtype: torch.dtype, least: float
) -> None:
    x, weight, bias = drawn(shape, dtype)
    stride, padding = shape[6:]
    ours = convolve(x, weight, bias, stride, padding)
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    assert ours.shape == exact.shape
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - exact).abs().max() <= least * exact.abs().max()
    bare = convolve(x, weight, None, stride, padding)
    assert (bare - (exact - bias.double()[:, None, None])).abs().max() <= least * exact.abs().max()


@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_the_layout_of_what_comes_in_is_all_the_same(shape: tuple[int, ...]) -> None:
    x, weight, bias = drawn(shape, torch.float32)
    last = torch.channels_last
    layouts = itertools.product(
        (x, x.to(memory_format=last)), (weight, weight.to(memory_format=last))
    )
    first, *others = (convolve(a, b, bias, *shape[6:]) for a, b in layouts)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_alone_has_the_same_bits(shape: tuple[int, ...]) -> None:
    x, weight, bias = drawn(shape, torch.float32)
    together = convolve(x, weight, bias, *shape[6:])
    assert torch.equal(convolve(x[:1], weight, bias, *shape[6:]), together[:1])


def test_how_sums_are_made_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first axis of the grid and the numbers of places grow; none is seen in a sum."""
    seen = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> "Kernel":
            self.grid = grid
            return self

        def __call__(self, *arguments: object, **constants: object) -> None:
            seen.append((self.grid[1:], arguments[6:], constants))

    class Sum(Kernel):
        def __call__(self, *arguments: object, **constants: object) -> None:
            pass

    monkeypatch.setattr(convolution, "_convolve", Kernel())
    monkeypatch.setattr(convolution, "_add", Sum())
    for shape in SHAPES:
        x, weight, bias = drawn(shape, torch.float16)
        seen.clear()
        for batch in (1, 2, 16, 100):
            many = x[:1].expand(batch, -1, -1, -1)
            convolve(many, weight, bias, *shape[6:])
        assert len(seen) == 4
        assert all(plan == seen[0] for plan in seen)


def test_a_linear_layer() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 5, 48), torch.randn(20, 48), torch.randn(20)
    assert relative(project(x, weight, bias), F.linear(x, weight, bias)) < TOLERANCE
    assert relative(project(x, weight, None), F.linear(x, weight)) < TOLERANCE


@pytest.mark.slow
@torch.inference_mode()
def test_whole_networks_use_them(tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    given = torch.randn(1, *tiny.latent_shape), torch.tensor([500.0]), torch.tensor([1])
    expected = tiny.unet(*given)
    calls = []

    def counted(*arguments: Any) -> Tensor:
        calls.append(arguments)
        return convolve(*arguments)

    monkeypatch.setattr(layers, "_served", lambda x: True)
    monkeypatch.setattr(convolution, "convolve", counted)
    assert relative(tiny.unet(*given), expected) < TOLERANCE
    assert len(calls) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in tiny.unet.modules())


def test_compilers_are_told_what_comes_out() -> None:
    for shape in SHAPES[:4]:
        given = (*drawn(shape, torch.float32), *shape[6:])
        torch.library.opcheck(
            torch.ops.darkroom.convolve, given, test_utils=("test_schema", "test_faketensor")
        )


@pytest.mark.parametrize("room", ROOMS)
def test_a_tile_fits_into_shared_memory(room: int) -> None:
    for dtype, tf32, filters in itertools.product(
        (torch.float32, torch.float16, torch.bfloat16), (False, True), (3, 64, 320, 640, 1280)
    ):
        assert choose_tile(dtype, filters, (room << 10) - 1024, tf32).bytes(dtype) < room << 10


def test_tf32_is_what_the_process_was_told() -> None:
    assert choose_tile(torch.float32, 64, sys.maxsize, True).precision == "tf32"
    assert choose_tile(torch.float32, 64, sys.maxsize, False).precision == "ieee"


def test_without_a_compiler_of_c_it_is_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layers._find_convolution() is convolution
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert layers._find_convolution() is None


def test_a_device_where_it_does_not_run_is_cudnn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "convolution", convolution)  # put back afterwards
    assert layers.try_convolution(torch.device("cpu")) is None
    assert layers.convolution is convolution

    def refuse(*_: object) -> Tensor:
        raise RuntimeError("out of resource: shared memory")

    monkeypatch.setattr(convolution, "convolve", refuse)
    assert layers.try_convolution(torch.device("cpu")) == (
        "RuntimeError: out of resource: shared memory"
    )
    assert layers.convolution is None
    assert layers.try_convolution(torch.device("cpu")) is not None


@pytest.mark.parametrize(
    ("cuda", "dtype", "ours"),
    [
        (True, torch.float32, True),
        (True, torch.bfloat16, True),
        (True, torch.float64, False),
        (False, torch.float32, False),
    ],
)
def test_they_serve_and_do_not_train(
    cuda: bool, dtype: torch.dtype, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    x: Any = SimpleNamespace(is_cuda=cuda, dtype=dtype)
    assert not layers._served(x)
    with torch.no_grad():
        assert layers._served(x) is ours
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert not layers._served(x)
