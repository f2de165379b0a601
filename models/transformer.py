"""Transformers within a UNet: positions attend to each other, then to the tokens of a text.

Rombach et al. 2022, sec. 3.3 and app. E.2. Parameter names and arithmetic are those of diffusers'
`Transformer2DModel`. There is no dropout in them: diffusers' UNet gives them none.
"""

from torch import Tensor, nn

from models.layers import Conv2d, GroupNorm, LayerNorm, Linear, attend, gate

_EPS = 1e-6  # of the group norm, as diffusers fixes it


class Attention(nn.Module):
    """Multi-head attention of x, (B, N, dim), to a source, (B, M, source_dim)."""

    def __init__(self, dim: int, source_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = Linear(dim, dim, bias=False)
        self.to_k = Linear(source_dim, dim, bias=False)
        self.to_v = Linear(source_dim, dim, bias=False)
        self.to_out = nn.ModuleList([Linear(dim, dim)])

    def forward(self, x: Tensor, source: Tensor) -> Tensor:
        mixed = attend(self.to_q(x), self.to_k(source), self.to_v(source), self.heads)
        out: Tensor = self.to_out[0](mixed)
        return out


class GatedLinear(nn.Module):
    """A linear layer whose second half gates its first through a GELU. Shazeer 2020, eq. 6."""

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, 2 * out_dim)

    def forward(self, x: Tensor) -> Tensor:
        return gate(self.proj(x))


class FeedForward(nn.Module):
    """A gated layer of four times the width, and a linear one back, (B, N, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # The second is diffusers' dropout, of nothing here.
        self.net = nn.Sequential(GatedLinear(dim, 4 * dim), nn.Identity(), Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.net(x)
        return out


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward: each normed first and added."""

    def __init__(self, dim: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(dim)
        self.attn1 = Attention(dim, dim, heads)
        self.norm2 = LayerNorm(dim)
        self.attn2 = Attention(dim, context_dim, heads)
        self.norm3 = LayerNorm(dim)
        self.ff = FeedForward(dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        normed = self.norm1(x)
        x, normed = self.norm2.added(x, self.attn1(normed, normed))
        x, normed = self.norm3.added(x, self.attn2(normed, context))
        out: Tensor = self.ff(normed) + x
        return out


class SpatialTransformer(nn.Module):
    """Transformer blocks over the H*W positions of a map, with a residual.

    `linear` says how the projections around them are stored, and computed: as linear layers, or as
    1x1 convolutions.
    """

    def __init__(
        self, channels: int, context_dim: int, *, heads: int, depth: int, groups: int, linear: bool
    ) -> None:
        super().__init__()
        self.linear = linear
        self.norm = GroupNorm(groups, channels, _EPS)
        self.proj_in = _projection(channels, linear)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(channels, context_dim, heads) for _ in range(depth)
        )
        self.proj_out = _projection(channels, linear)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map (B, C, H, W) and context (B, tokens, context_dim) -> (B, C, H, W)."""
        h = self.norm(x)
        h = self.proj_in(_positions(h)) if self.linear else _positions(self.proj_in(h))
        for block in self.transformer_blocks:
            h = block(h, context)
        h = _map(self.proj_out(h), x) if self.linear else self.proj_out(_map(h, x))
        return x + h  # in this order the sum has the memory format of x


def _projection(channels: int, linear: bool) -> nn.Module:
    return Linear(channels, channels) if linear else Conv2d(channels, channels, 1)


def _positions(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H*W, C)."""
    return x.flatten(2).transpose(1, 2)


def _map(x: Tensor, like: Tensor) -> Tensor:
    """(B, H*W, C) -> (B, C, H, W)."""
    return x.transpose(1, 2).reshape(like.shape)
