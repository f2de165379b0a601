"""Our kernels between products against PyTorch's, by Triton's interpreter: there is no GPU."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import layers, normalization
from models.layers import GroupNorm, ResnetBlock
from models.normalization import add_norm, group_norm, layer_norm
from models.pointwise import double, gate
from models.transformer import SpatialTransformer

# Batch, channels, height, width, groups.
SHAPES = (
    (2, 80, 8, 8, 8),  # ten channels per group
    (3, 64, 4, 4, 8),
    (2, 48, 12, 5, 16),
    (2, 20, 7, 9, 4),
    (2, 96, 1, 1, 8),
)
ROUNDING = {torch.float32: 2**-20, torch.float16: 2**-9, torch.bfloat16: 2**-6}


class Drawn:
    """A map and all that goes with it."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        batch, channels, height, width, self.groups = shape
        self.x = (3 * torch.randn(batch, channels, height, width) + 5).to(dtype)
        self.affine = torch.randn(channels).to(dtype), torch.randn(channels).to(dtype)
        self.added = torch.randn(batch, channels).to(dtype)
        self.modulation = torch.randn(batch, 2 * channels).to(dtype)

    def ours(self, **how: Any) -> Tensor:
        return group_norm(self.x, self.groups, *self.affine, 1e-5, **how)

    def exact(self, *, silu: bool = False, added: bool = False, modulated: bool = False) -> Tensor:
        x = self.x.double() + (self.added.double()[:, :, None, None] if added else 0)
        h = F.group_norm(x, self.groups, *(part.double() for part in self.affine), 1e-5)
        if modulated:
            scale, shift = self.modulation.double()[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.silu(h) if silu else h


def close(ours: Tensor, exact: Tensor) -> bool:
    return bool((ours - exact).abs().max() <= ROUNDING[ours.dtype] * exact.abs().max())


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_computes_what_pytorch_does(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    drawn = Drawn(shape, dtype)
    plain = drawn.ours()
    assert plain.dtype == dtype
    assert plain.is_contiguous(memory_format=torch.channels_last)
    assert close(plain, drawn.exact())
    assert close(drawn.ours(silu=True, added=drawn.added), drawn.exact(silu=True, added=True))
    modulated = drawn.ours(silu=True, modulation=drawn.modulation)
    assert close(modulated, drawn.exact(silu=True, modulated=True))


def test_chunks_of_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of large maps: the last chunk is shorter, and so is its last block."""
    monkeypatch.setattr(normalization, "_MOST_CHUNKS", 3)
    drawn = Drawn((2, 32, 25, 17, 4))
    assert close(drawn.ours(added=drawn.added), drawn.exact(added=True))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    drawn = Drawn((1, 8, 16, 16, 4))
    drawn.x = drawn.x / 100 + 1000  # squares of it have no digits left for the deviations
    assert (drawn.ours() - drawn.exact()).abs().max() < 1e-2


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_an_image_alone_has_the_same_bits(shape: tuple[int, ...]) -> None:
    drawn = Drawn(shape, torch.float16)
    how = {"silu": True, "added": drawn.added, "modulation": drawn.modulation}
    together = drawn.ours(**how)
    for row in range(shape[0]):
        alone = slice(row, row + 1)
        some = {name: of if of is True else of[alone] for name, of in how.items()}
        made = group_norm(drawn.x[alone], drawn.groups, *drawn.affine, 1e-5, **some)
        assert torch.equal(made, together[alone])


def test_the_layout_of_what_comes_in_is_all_the_same() -> None:
    drawn = Drawn(SHAPES[2])
    first = drawn.ours()
    drawn.x = drawn.x.to(memory_format=torch.channels_last)
    assert torch.equal(drawn.ours(), first)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("channels", [320, 48])
def test_of_rows_and_of_sums(channels: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, more = (torch.randn(2, 5, channels).to(dtype) + 3 for _ in range(2))
    affine = torch.randn(channels).to(dtype), torch.randn(channels).to(dtype)

    def exact(value: Tensor) -> Tensor:
        return F.layer_norm(value.double(), (channels,), *(a.double() for a in affine), 1e-5)

    alone = layer_norm(x, *affine, 1e-5)
    assert close(alone, exact(x))
    assert torch.equal(layer_norm(x[1:], *affine, 1e-5), alone[1:])
    summed, normed = add_norm(x, more, *affine, 1e-5)
    assert close(summed, x.double() + more.double())
    assert close(normed, exact(summed))


@pytest.mark.parametrize("shape", [(2, 70, 3, 5), (1, 16, 9, 4)], ids=str)
def test_a_map_twice_as_large(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    made = double(x)
    assert torch.equal(made, F.interpolate(x, scale_factor=2.0, mode="nearest"))
    assert made.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_a_gated_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 2 * 1100).to(dtype)
    value, by = x.double().chunk(2, dim=-1)
    made = gate(x)
    assert made.dtype == dtype
    assert close(made, value * F.gelu(by))


def test_compilers_are_told_what_comes_out() -> None:
    drawn = Drawn(SHAPES[1])
    tests = ("test_schema", "test_faketensor")
    norm = (drawn.x, drawn.groups, *drawn.affine, 1e-5, True, drawn.added, None)
    torch.library.opcheck(torch.ops.darkroom.group_norm, norm, test_utils=tests)
    rows, row = torch.randn(2, 3, 8), torch.randn(8)
    for operator, given in (
        (torch.ops.darkroom.gate, (rows,)),
        (torch.ops.darkroom.layer_norm, (rows, row, row, 1e-5)),
        (torch.ops.darkroom.add_norm, (rows, rows, row, row, 1e-5)),
        (torch.ops.darkroom.double, (drawn.x,)),
    ):
        torch.library.opcheck(operator, given, test_utils=tests)


@pytest.mark.parametrize("scale_shift", [False, True])
def test_a_block_is_the_same_on_a_gpu_and_compiled(
    scale_shift: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    block = ResnetBlock(32, 48, groups=4, eps=1e-5, temb_dim=8, scale_shift=scale_shift)
    given = torch.randn(2, 32, 4, 4), torch.randn(2, 8)
    with torch.no_grad():
        expected = block(*given)
        monkeypatch.setattr(layers, "_served", lambda x: True)
        assert (block(*given) - expected).abs().max() < 1e-5
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(*given), block(*given))


def test_a_transformer_is_the_same_on_a_gpu_and_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = SpatialTransformer(32, 24, heads=2, depth=1, groups=4, linear=False)
    given = torch.randn(2, 32, 4, 4), torch.randn(2, 5, 24)
    with torch.no_grad():
        expected = block(*given)
        monkeypatch.setattr(layers, "_served", lambda x: True)
        assert (block(*given) - expected).abs().max() < 1e-5
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True)
        assert torch.equal(compiled(*given), block(*given))


def test_elsewhere_and_in_training_it_is_pytorch_s() -> None:
    torch.manual_seed(0)
    drawn, plain = Drawn(SHAPES[1]), nn.GroupNorm(8, 64)
    ours = GroupNorm(8, 64)
    assert torch.equal(ours(drawn.x, silu=True), F.silu(plain(drawn.x)))
    made = ours(drawn.x, added=drawn.added, modulation=drawn.modulation)
    scale, shift = drawn.modulation[:, :, None, None].chunk(2, dim=1)
    assert torch.equal(made, plain(drawn.x + drawn.added[:, :, None, None]) * (1 + scale) + shift)
    made.sum().backward()
    assert ours.weight.grad is not None
