"""The blocks of all networks. Parameter names are diffusers', so weights can be exchanged.

Tensors are (B, C, H, W); `temb` is SiLU of the time (and class, or text) embedding, (B, D), or None
in the VAE; `context` is a text's tokens, (B, tokens, E), or None where nothing attends to a text.
"""

import importlib
import math
import os
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _find(kernels: str) -> Any:
    """Our kernels, where they can run: on a GPU, with Triton and the compiler of C that it needs.

    Tests interpret them without a GPU.
    """
    if not (torch.backends.cuda.is_built() or os.environ.get("TRITON_INTERPRET")):
        return None
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return None
    try:
        return importlib.import_module(kernels)
    except ImportError:
        return None


convolution = _find("models.convolution")
normalization = _find("models.normalization")
pointwise = _find("models.pointwise")


def try_convolution(device: torch.device) -> str | None:
    """Give our kernels up for this process if they do not run on `device`; the reason."""
    global convolution  # without it, nothing of ours runs
    if convolution is None:
        return "Triton, a compiler of C, or PyTorch for GPUs is not installed"
    try:
        x = torch.zeros(1, 8, 2, 2, device=device)
        convolution.convolve(x, x, None, 1, (0, 0))
        normalization.group_norm(x, 1, x[0, :, 0, 0], x[0, :, 0, 0], 1e-5)
        normalization.layer_norm(x, x[0, 0, 0], x[0, 0, 0], 1e-5)
        pointwise.gate(x)
        pointwise.double(x)
        return None
    except Exception as error:  # whatever the driver, the compiler or the file system says
        convolution = None
        return f"{type(error).__name__}: {error}"


def embedding(count: int, width: int) -> nn.Embedding:
    """Initialised as `nn.Embedding` is, except on the meta device, where nothing can be.

    There PyTorch would import torch._dynamo or SymPy: half a second, whenever a model is opened.
    """
    weight = torch.empty(count, width)
    return nn.Embedding(
        count, width, _weight=weight if weight.is_meta else torch.randn(count, width)
    )


class Conv2d(nn.Conv2d):
    """A convolution; on a GPU, without gradients, one whose bits no batch changes.

    Filters are square, and the padding is zeros; `extra` more are below and to the right. `more` is
    added to the result.
    """

    tf32 = False  # see `allow_tf32`

    def forward(self, x: Tensor, *, extra: int = 0, more: Tensor | None = None) -> Tensor:
        if _served(x) and not self._is_linear(x):
            padding = int(self.padding[0])
            zeros = padding, padding + extra
            made: Tensor = convolution.convolve(
                x, self.weight, self.bias, self.stride[0], zeros, more, tf32=self.tf32
            )
            return made
        if _served(x):
            made = self._project(x)
        else:
            made = super().forward(F.pad(x, (0, extra, 0, extra)) if extra else x)
        return made if more is None else more + made

    def _is_linear(self, x: Tensor) -> bool:
        """Whether cuBLASLt makes it, as it does `Linear`; it reads multiples of 16 bytes."""
        return self.kernel_size[0] == 1 and x.dtype != torch.float32 and self.in_channels % 8 == 0

    def _project(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        made = F.linear(pixels.reshape(-1, self.in_channels), self.weight.flatten(1), self.bias)
        return made.view(*pixels.shape[:3], self.out_channels).permute(0, 3, 1, 2)


class Linear(nn.Linear):
    """A linear layer; on a GPU, without gradients, one whose bits no batch changes.

    In half precision cuBLASLt's are such; see `models.precision`.
    """

    tf32 = False  # see `allow_tf32`

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32 or not _served(x):
            return super().forward(x)
        made: Tensor = convolution.project(x, self.weight, self.bias, self.tf32)
        return made


class GroupNorm(nn.GroupNorm):
    """Group normalization, with what goes before and after it.

    `added` (B, C) is added to all pixels of a map before. After, the map is multiplied by 1 + scale
    and shift is added, where `modulation` (B, 2 * C) is both; and SiLU follows if `silu`.
    """

    def forward(
        self,
        x: Tensor,
        *,
        silu: bool = False,
        added: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        if _served(x):
            made: Tensor = normalization.group_norm(
                x, self.num_groups, self.weight, self.bias, self.eps, silu, added, modulation
            )
            return made
        if added is not None:
            x = x + added[:, :, None, None]
        h = super().forward(x)
        if modulation is not None:
            scale, shift = modulation[:, :, None, None].chunk(2, dim=1)
            h = h * (1 + scale) + shift
        return F.silu(h) if silu else h


class LayerNorm(nn.LayerNorm):
    """Layer normalization, of a map or of a sum."""

    def forward(self, x: Tensor) -> Tensor:
        if not _served(x):
            return super().forward(x)
        made: Tensor = normalization.layer_norm(x, self.weight, self.bias, self.eps)
        return made

    def added(self, x: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of both, and its normalization."""
        if not _served(x):
            summed = more + x
            return summed, self(summed)
        made: tuple[Tensor, Tensor] = normalization.add_norm(
            x, more, self.weight, self.bias, self.eps
        )
        return made


def gate(x: Tensor) -> Tensor:
    """(..., 2 * D) -> (..., D): the first half times the GELU of the second."""
    if _served(x):
        made: Tensor = pointwise.gate(x)
        return made
    value, by = x.chunk(2, dim=-1)
    return value * F.gelu(by)


def allow_tf32(network: nn.Module) -> None:
    """Let our kernels multiply float32 with ten bits of mantissa in this network.

    Tensor cores do that. It is for a network that stays in float32 in a model of float16, whose
    products have no more bits.
    """
    for module in network.modules():
        if isinstance(module, Conv2d | Linear):
            module.tf32 = True


def _served(x: Tensor) -> bool:
    """Whether our kernels take it: on a GPU, in a type that we have, and nothing is trained."""
    if convolution is None or not x.is_cuda or x.dtype == torch.float64:
        return False
    return not torch.is_grad_enabled() and not torch.is_autocast_enabled("cuda")


class TimestepFeatures(nn.Module):
    """Sinusoids of timesteps, (B,) -> (B, dim) float32. Vaswani et al. 2017, sec. 3.5.

    Frequencies fall from 1 to 1/10000; DDPM puts sines first, diffusers' default cosines first.
    """

    def __init__(self, dim: int, *, flip_sin_to_cos: bool = True, freq_shift: int = 0) -> None:
        super().__init__()
        half = dim // 2
        # On the CPU even if the model is built on the meta device. No buffer: always float32.
        exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device="cpu")
        self._frequencies = torch.exp(exponent / (half - freq_shift))
        self._odd, self._cosines_first = dim % 2, flip_sin_to_cos

    def forward(self, t: Tensor) -> Tensor:
        if self._frequencies.device != t.device:  # once: the copy makes a GPU wait
            self._frequencies = self._frequencies.to(t.device)
        angles = t.float()[:, None] * self._frequencies[None]
        waves = [angles.sin(), angles.cos()]
        made = torch.cat(waves[::-1] if self._cosines_first else waves, dim=1)
        return F.pad(made, (0, 1)) if self._odd else made


class TimestepEmbedding(nn.Module):
    """Two linear layers with a SiLU between, (B, in_dim) -> (B, dim).

    Where `condition_dim` is given, a condition (B, condition_dim) may be added to what they read:
    the guidance scale, in distilled networks. Meng et al. 2023, sec. 3.1.
    """

    def __init__(self, in_dim: int, dim: int, condition_dim: int | None = None) -> None:
        super().__init__()
        self.linear_1 = Linear(in_dim, dim)
        if condition_dim is not None:
            self.cond_proj = Linear(condition_dim, in_dim, bias=False)
        self.linear_2 = Linear(dim, dim)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        if condition is not None:
            x = x + self.cond_proj(condition)
        out: Tensor = self.linear_2(F.silu(self.linear_1(x)))
        return out


class ResnetBlock(nn.Module):
    """norm-SiLU-conv twice, the embedding added (or scale and shift) between; He et al. 2016.

    `temb` has been through SiLU, which is the same for every block. `scale` divides the sum of
    block and shortcut.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        eps: float,
        temb_dim: int | None = None,
        scale_shift: bool = False,
        dropout: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift, self.scale = scale_shift, scale
        self.norm1 = GroupNorm(groups, in_channels, eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        if temb_dim is not None:
            self.time_emb_proj = Linear(temb_dim, out_channels * (2 if scale_shift else 1))
        self.norm2 = GroupNorm(groups, out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = (
            Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else None
        )

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        h = self.conv1(self.norm1(x, silu=True))
        emb = None if temb is None else self.time_emb_proj(temb)
        if self.scale_shift:  # adaptive group norm, Dhariwal & Nichol 2021, eq. 3
            h = self.norm2(h, silu=True, modulation=emb)
        else:
            h = self.norm2(h, silu=True, added=emb)
        shortcut = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return _scaled(self.conv2(self.dropout(h), more=shortcut), self.scale)


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head attention without projections. Vaswani et al. 2017, eq. 1.

    Every kernel of PyTorch keeps scores and their softmax in float32, whatever `q` is.

    Args:
        q: queries, (B, N, D).
        k, v: keys and values, (B, M, D).
        heads: a divisor of D.

    Returns:
        (B, N, D).
    """
    batch, _, channels = q.shape
    q, k, v = (x.view(batch, -1, heads, channels // heads).transpose(1, 2) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(q, k, v)  # (B, heads, N, D / heads)
    return mixed.transpose(1, 2).reshape(batch, -1, channels)


class SelfAttention(nn.Module):
    """Multi-head attention over the H*W positions, with a residual; no text is read."""

    def __init__(
        self, channels: int, *, head_dim: int | None, groups: int | None, eps: float, scale: float
    ) -> None:
        super().__init__()
        self.heads, self.scale = channels // (head_dim or channels), scale
        self.group_norm = GroupNorm(groups, channels, eps) if groups is not None else None
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, x: Tensor, _context: Tensor | None = None) -> Tensor:
        h = x if self.group_norm is None else self.group_norm(x)
        tokens = h.flatten(2).transpose(1, 2)  # (B, H*W, C)
        q, k, v = self.to_q(tokens), self.to_k(tokens), self.to_v(tokens)
        if self.to_q.tf32 and _served(x):  # normed, they do not overflow; diffusers does the same
            q, k, v = q.half(), k.half(), v.half()
        merged = self.to_out[0](attend(q, k, v, self.heads).to(x.dtype))
        return _scaled(merged.transpose(1, 2).reshape(x.shape) + x, self.scale)


class Downsample(nn.Module):
    """Halve height and width by a strided convolution.

    Padding 1 is symmetric (the UNet); padding 0 pads right and bottom alone (the VAE).
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.padding = padding
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x, extra=0 if self.padding else 1)
        return out


class Upsample(nn.Module):
    """Double height and width: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(_double(x))
        return out


def _double(x: Tensor) -> Tensor:
    if _served(x):
        made: Tensor = pointwise.double(x)
        return made
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


MakeAttention = Callable[[], nn.Module]  # of a map and a context, which makes a map like the first


class Block(nn.Module):
    """ResNet blocks, each followed by attention where asked, then a change of resolution.

    One class serves as encoder, decoder, down and up block: they differ in what their ResNets
    read (`in_channels`, one entry per ResNet, skips counted in), in the kind of their attention,
    and in what they end with.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        groups: int,
        eps: float,
        temb_dim: int | None = None,
        scale_shift: bool = False,
        dropout: float = 0.0,
        attention: MakeAttention | None = None,
        downsample_padding: int | None = None,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(
                channels,
                out_channels,
                groups=groups,
                eps=eps,
                temb_dim=temb_dim,
                scale_shift=scale_shift,
                dropout=dropout,
            )
            for channels in in_channels
        )
        if attention is not None:
            self.attentions = nn.ModuleList(attention() for _ in in_channels)
        if downsample_padding is not None:
            self.downsamplers = nn.ModuleList([Downsample(out_channels, downsample_padding)])
        if upsample:
            self.upsamplers = nn.ModuleList([Upsample(out_channels)])
        self.has_attention = attention is not None
        self.resample = "downsamplers" if downsample_padding is not None else "upsamplers"
        self.has_resample = upsample or downsample_padding is not None

    def forward(
        self,
        x: Tensor,
        temb: Tensor | None = None,
        context: Tensor | None = None,
        skips: list[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return the result and what each stage made, for an up block further on to read.

        `skips`, where given, is popped from its end: one for every ResNet.
        """
        made = []
        for i, resnet in enumerate(self.resnets):
            x = resnet(x if skips is None else torch.cat([x, skips.pop()], dim=1), temb)
            if self.has_attention:
                x = self.attentions[i](x, context)
            made.append(x)
        if self.has_resample:
            x = getattr(self, self.resample)[0](x)
            made.append(x)
        return x, made


class MidBlock(nn.Module):
    """ResNet, attention, ResNet at the lowest resolution."""

    def __init__(
        self,
        channels: int,
        *,
        groups: int,
        eps: float,
        attention: MakeAttention | None,
        temb_dim: int | None = None,
        scale_shift: bool = False,
        dropout: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(
                channels,
                channels,
                groups=groups,
                eps=eps,
                temb_dim=temb_dim,
                scale_shift=scale_shift,
                dropout=dropout,
                scale=scale,
            )
            for _ in range(2)
        )
        if attention is not None:
            self.attentions = nn.ModuleList([attention()])
        self.has_attention = attention is not None

    def forward(
        self, x: Tensor, temb: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:
        x = self.resnets[0](x, temb)
        if self.has_attention:
            x = self.attentions[0](x, context)
        out: Tensor = self.resnets[1](x, temb)
        return out


def _scaled(x: Tensor, scale: float) -> Tensor:
    """Divided by `scale`; it is 1 in nearly all models, and the operator would do nothing."""
    return x if scale == 1 else x / scale
