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
from models.checkpoint import Checkpoint
from models.conditioning import Classes
from models.convolution import Tile, choose_box, choose_tile, convolve, project
from models.layers import Conv2d, Downsample, Linear, SelfAttention, allow_tf32
from models.pipeline import LatentDiffusion
from models.unet import UNet2D
from models.vae import AutoencoderKL
from tests.models.test_parity import TOLERANCE, relative
from tests.tiny import SCHEDULE, UNET, VAE

# Shared memory of one block of threads, KiB: Hopper, A100, Ada, Turing.
ROOMS = (227, 163, 99, 64)

# Batch, channels, height, width, filters, kernel, stride, padding.
SHAPES = (
    (2, 64, 8, 8, 128, 3, 1, 1),
    (3, 4, 9, 7, 20, 3, 1, 1),  # few channels, odd sides
    (2, 32, 8, 8, 64, 3, 2, 1),
    (2, 32, 9, 7, 40, 3, 2, 1),
    (2, 16, 9, 9, 8, 3, 2, 0),
    (2, 72, 8, 6, 16, 3, 2, 1),  # a block of channels that reaches into the next column's
    (9, 16, 3, 5, 8, 3, 1, 1),  # several images per tile
    (3, 16, 5, 6, 300, 3, 1, 0),
    (2, 70, 5, 6, 33, 1, 1, 0),
    (2, 8, 1, 1, 8, 3, 1, 1),
    (2, 200, 4, 4, 24, 3, 1, 1),  # long sums
)


def with_zeros(shape: tuple[int, ...]) -> tuple[int, tuple[int, int]]:
    """Stride and padding, as our convolutions are told."""
    return shape[6], (shape[7], shape[7])


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
    ours = convolve(x, weight, bias, *with_zeros(shape))
    exact = F.conv2d(x.double(), weight.double(), bias.double(), stride, padding)
    assert ours.shape == exact.shape
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - exact).abs().max() <= least * exact.abs().max()
    bare = convolve(x, weight, None, *with_zeros(shape))
    assert (bare - (exact - bias.double()[:, None, None])).abs().max() <= least * exact.abs().max()


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[1], SHAPES[8]], ids=str)
def test_what_is_added_to_the_result(shape: tuple[int, ...]) -> None:
    """Where sums are in one part, and in several."""
    x, weight, bias = drawn(shape, torch.float32)
    plain = convolve(x, weight, bias, *with_zeros(shape))
    more = torch.randn(plain.shape)
    assert (convolve(x, weight, bias, *with_zeros(shape), more) - (plain + more)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_the_layout_of_what_comes_in_is_all_the_same(shape: tuple[int, ...]) -> None:
    x, weight, bias = drawn(shape, torch.float32)
    last = torch.channels_last
    layouts = itertools.product(
        (x, x.to(memory_format=last)), (weight, weight.to(memory_format=last))
    )
    first, *others = (convolve(a, b, bias, *with_zeros(shape)) for a, b in layouts)
    assert all(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_an_image_alone_has_the_same_bits(shape: tuple[int, ...]) -> None:
    x, weight, bias = drawn(shape, torch.float32)
    together = convolve(x, weight, bias, *with_zeros(shape))
    for row in range(len(x)):
        alone = convolve(x[row : row + 1], weight, bias, *with_zeros(shape))
        assert torch.equal(alone, together[row : row + 1])


def test_how_sums_are_made_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first axis of the grid and the numbers of places grow; none is seen in a sum."""
    seen = []

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> "Kernel":
            self.grid = grid
            return self

        def __call__(self, *arguments: object, **constants: object) -> None:
            seen.append((self.grid[1:], arguments[7:], constants))

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
            convolve(many, weight, bias, *with_zeros(shape))
        assert len(seen) == 4
        assert all(plan == seen[0] for plan in seen)


def test_a_linear_layer() -> None:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(3, 5, 48), torch.randn(20, 48), torch.randn(20)
    assert relative(project(x, weight, bias), F.linear(x, weight, bias)) < TOLERANCE
    assert relative(project(x, weight, None), F.linear(x, weight)) < TOLERANCE
    assert relative(project(x[:, 0], weight, bias), F.linear(x[:, 0], weight, bias)) < TOLERANCE


def test_zeros_on_the_right_and_below_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = Downsample(16, padding=0), torch.randn(2, 16, 6, 8)
    with torch.no_grad():
        expected = layer(x)
        monkeypatch.setattr(layers, "_served", lambda x: True)
        assert relative(layer(x), expected) < TOLERANCE


def test_one_position_in_half_precision_is_a_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer, x = Conv2d(16, 24, 1).half(), torch.randn(2, 16, 6, 8).half()
    with torch.no_grad():
        expected = F.conv2d(x.double(), layer.weight.double(), layer.bias.double())
        monkeypatch.setattr(layers, "_served", lambda x: True)
        monkeypatch.setattr(convolution, "convolve", None)
        for given in (x, x.to(memory_format=torch.channels_last)):
            made = layer(given)
            assert made.is_contiguous(memory_format=torch.channels_last)
            assert (made - expected).abs().max() <= 2**-10 * expected.abs().max()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (64, 64, (1, 8, 16)),
        (8, 8, (2, 8, 8)),
        (4, 4, (8, 4, 4)),
        (96, 40, (1, 16, 8)),
        (1, 1, (128, 1, 1)),
    ],
)
def test_a_tile_is_shaped_as_the_map(
    height: int, width: int, expected: tuple[int, int, int]
) -> None:
    assert choose_box(128, height, width) == expected


def test_a_network_may_be_told_to_round_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    def seen(*given: Any) -> Tile:
        told.append(given[-1])
        return choose_tile(*given)

    monkeypatch.setattr(layers, "_served", lambda x: True)
    monkeypatch.setattr(convolution, "choose_tile", seen)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, x = nn.Sequential(Conv2d(8, 8, 1), Linear(2, 2)), torch.randn(1, 8, 2, 2)
    with torch.no_grad():
        network(x)
        allow_tf32(network)
        network(x)
    assert told == [False, False, True, True]


def test_its_attention_is_in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = SelfAttention(16, head_dim=None, groups=4, eps=1e-6, scale=1.0)
    allow_tf32(block)
    seen, x = [], torch.randn(2, 16, 4, 4)

    def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        seen.append(q.dtype)
        return plain(q, k, v, heads)

    plain = layers.attend
    monkeypatch.setattr(layers, "attend", attend)
    with torch.no_grad():
        expected = block(x)
        monkeypatch.setattr(layers, "_served", lambda x: True)
        made = block(x)
    assert seen == [torch.float32, torch.float16]
    assert made.dtype == torch.float32
    assert relative(made, expected) < 2**-9


def test_a_tile_is_not_larger_than_two_small_maps() -> None:
    places = [
        choose_tile(torch.float16, area, 1280, sys.maxsize, False).places for area in (256, 64)
    ]
    assert places == [256, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_so_is_a_decoder_that_stays_in_float32(dtype: torch.dtype) -> None:
    """Its model is in float16, and its products have no more digits."""
    vae, unet = AutoencoderKL(VAE), UNet2D(UNET).to(dtype)
    LatentDiffusion(Checkpoint(vae, unet, SCHEDULE, Classes(), 1.0))
    products = [module.tf32 for module in vae.modules() if isinstance(module, Conv2d | Linear)]
    assert set(products) == {dtype == torch.float16}


@pytest.mark.slow
@torch.inference_mode()
def test_whole_networks_use_them(tiny: LatentDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    given = torch.randn(1, *tiny.latent_shape), torch.tensor([500.0]), torch.tensor([1])
    expected = tiny.unet(*given)
    calls = []

    def counted(*arguments: Any, **more: Any) -> Tensor:
        calls.append(arguments)
        return convolve(*arguments, **more)

    monkeypatch.setattr(layers, "_served", lambda x: True)
    monkeypatch.setattr(convolution, "convolve", counted)
    assert relative(tiny.unet(*given), expected) < TOLERANCE
    assert len(calls) == sum(isinstance(m, nn.Conv2d | nn.Linear) for m in tiny.unet.modules())


def test_compilers_are_told_what_comes_out() -> None:
    for shape in SHAPES[:4]:
        given = (*drawn(shape, torch.float32), *with_zeros(shape), None, False)
        torch.library.opcheck(
            torch.ops.darkroom.convolve, given, test_utils=("test_schema", "test_faketensor")
        )


@pytest.mark.parametrize("room", ROOMS)
def test_a_tile_fits_into_shared_memory(room: int) -> None:
    for dtype, tf32, filters in itertools.product(
        (torch.float32, torch.float16, torch.bfloat16), (False, True), (3, 64, 320, 640, 1280)
    ):
        for area in (16, 4096):
            tile = choose_tile(dtype, area, filters, (room << 10) - 1024, tf32)
            assert tile.bytes(dtype) < room << 10


def test_tf32_is_what_the_process_was_told() -> None:
    assert choose_tile(torch.float32, 64, 64, sys.maxsize, True).precision == "tf32"
    assert choose_tile(torch.float32, 64, 64, sys.maxsize, False).precision == "ieee"


def test_without_a_compiler_of_c_it_is_pytorch_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert layers._find("models.convolution") is convolution
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert layers._find("models.convolution") is None


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
