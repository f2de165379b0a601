"""The UNet as an OpenVINO graph of few multiplications: Winograd, position-major, float32.

A 3x3 convolution over an 8x8 map makes nine multiplications an output and channel; evaluated at the
points of a polynomial (Toom and Cook; Winograd; Lavin & Gray 2016) it makes 36 for sixteen outputs.
Tensors are (h*w, B, C): every transform is then one product with a small constant, without a
transpose, and the convolution a product batched over the points. In real arithmetic nothing
changes; in float32 the result differs from the plain graph's by a few parts in a million.
"""

import threading
from functools import cache
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset13 as op
from torch import nn

from models.backbone import UNetBackbone
from models.unet import UNet2D

Array = NDArray[np.float64]
Node = Any  # of OpenVINO's graph; its bindings have no types
Layer = Any  # of models.layers; PyTorch types what a module holds loosely
Transform = tuple[Array, Array, Array]
_MOST_WEIGHTS = 30_000_000
_LARGEST = 16  # of maps: conv_out sums over every pair of positions
_POINTS = (0.0, 1.0, -1.0, 0.5, -2.0)  # where polynomials are evaluated, and at infinity


def toom_cook(outputs: int, taps: int) -> Transform:
    """(D, G, A): correlation of `outputs + taps - 1` values d with g is A @ ((G @ g) * (D @ d))."""
    n = outputs + taps - 1

    def evaluate(k: int) -> Array:
        rows = [[p**j for j in range(k)] for p in _POINTS[: n - 1]]
        return np.array([*rows, [0.0] * (k - 1) + [1.0]])

    d, g = np.linalg.inv(evaluate(n)).T, evaluate(taps)
    scale = np.array([np.abs(row[row != 0]).min() for row in d])[:, None]
    return d / scale, g * scale, evaluate(outputs).T


# One dimension of a 3-tap convolution with padding 1, `size` values in: (D, G, A), D of shape
# (points, tiles, size) and A (size out, points, tiles). Two dimensions apply each twice.


@cache
def same(size: int) -> Transform:
    """As many values out as in."""
    m = next(m for m in (4, 2, 1) if size % m == 0)
    d, g, a = toom_cook(m, 3)
    din, aout = np.zeros((m + 2, size // m, size)), np.zeros((size, m + 2, size // m))
    for tile in range(size // m):
        for j in range(m + 2):
            if 0 <= (at := tile * m + j - 1) < size:
                din[:, tile, at] = d[:, j]
        aout[tile * m : (tile + 1) * m, :, tile] = a
    return din, g, aout


@cache
def upsampled(size: int) -> Transform:
    """After nearest 2x: even outputs are 2 taps (g0, g1+g2), odd ones (g0+g1, g2)."""
    m = next(m for m in (2, 1) if size % m == 0)
    d, g, a = toom_cook(m, 2)
    n, tiles = m + 1, size // m
    din, aout = np.zeros((2, n, tiles, size)), np.zeros((2 * size, 2, n, tiles))
    for odd in range(2):
        for tile in range(tiles):
            for j in range(n):
                if 0 <= (at := tile * m + j - 1 + odd) < size:
                    din[odd, :, tile, at] = d[:, j]
            for i in range(m):
                aout[2 * (tile * m + i) + odd, odd, :, tile] = a[i]
    taps = np.concatenate([g @ [[1, 0, 0], [0, 1, 1]], g @ [[1, 1, 0], [0, 0, 1]]])
    return din.reshape(2 * n, tiles, size), taps, aout.reshape(2 * size, 2 * n, tiles)


@cache
def strided(size: int) -> Transform:
    """Stride 2: odd inputs meet the 2 taps (g0, g2), even ones g1 alone."""
    out = size // 2
    m = next(m for m in (4, 2, 1) if out % m == 0)
    d, g, a = toom_cook(m, 2)
    n, tiles = m + 1, out // m
    din, aout = np.zeros((n + m, tiles, size)), np.zeros((out, n + m, tiles))
    for tile in range(tiles):
        for j in range(n):
            if (at := 2 * (tile * m + j) - 1) >= 0:
                din[:n, tile, at] = d[:, j]
        for i in range(m):
            din[n + i, tile, 2 * (tile * m + i)] = aout[tile * m + i, n + i, tile] = 1
        aout[tile * m : (tile + 1) * m, :n, tile] = a
    return din, np.concatenate([g @ [[1, 0, 0], [0, 0, 1]], [[0, 1, 0]] * m]), aout


def array(t: torch.Tensor) -> NDArray[np.float32]:
    """A tensor's values as float32."""
    made: NDArray[np.float32] = t.detach().float().cpu().numpy()
    return made


class Winograd:
    """Builds models of one UNet, one for each number of rows; transformed weights are shared.

    Raises:
        ValueError: the UNet has a form this has not: `scale_shift`, `center_input_sample`, another
            padding; latents, whose (height, width) is `latent_size`, are not square; or weights are
            so many that those transformed, four times the size, would be the bottleneck.
    """

    def __init__(self, unet: UNetBackbone, latent_size: tuple[int, int]) -> None:
        config, (size, width) = unet.config, latent_size
        if not isinstance(unet, UNet2D):
            raise ValueError(f"{config.class_name} has transformers, which this form has not")
        if config.resnet_time_scale_shift != "default" or config.center_input_sample:
            raise ValueError("scale_shift and center_input_sample are not supported in this form")
        if size != width or size % 2 ** (len(config.block_out_channels) - 1):
            raise ValueError(f"latents are {size}x{width}; they must be square and halve evenly")
        if size > _LARGEST:
            raise ValueError(
                f"latents are {size}x{size}; above {_LARGEST} the plain graph is better"
            )
        if config.downsample_padding != 1:
            raise ValueError(f"downsample_padding is {config.downsample_padding}; this has 1")
        if sum(weight.numel() for weight in unet.parameters()) > _MOST_WEIGHTS:
            raise ValueError(f"more than {_MOST_WEIGHTS} weights")
        self.unet, self.size = unet, size
        self._building = threading.Lock()
        self._weights: dict[nn.Module, NDArray[np.float32]] = {}

    def build(self, rows: int) -> ov.Model:
        """The model for exactly `rows` rows of `Denoiser.without_time_embedding`.

        It reads x (rows, C, h, w) and time embeddings (rows, dim), float32, and where the UNet has
        classes, their labels (rows,) int64.
        """
        with self._building:  # `rows` is the instance's while it builds
            return self._graph(rows)

    def _graph(self, rows: int) -> ov.Model:
        unet: Layer = self.unet
        self.rows = rows
        x = op.parameter([rows, unet.config.in_channels, self.size, self.size], np.float32, "x")
        dim = unet.time_embedding.linear_2.out_features
        temb = op.parameter([rows, dim], np.float32, "time_embedding")
        inputs = [x, temb]
        if unet.class_embedding is not None:
            labels = op.parameter([rows], np.int64, "class_labels")
            inputs.append(labels)
            classes = self._constant(array(unet.class_embedding.weight))
            temb = op.add(temb, op.gather(classes, labels, op.constant(0)))
        temb = op.swish(temb)

        h, size = self._conv_in(x), self.size
        skips = [h]
        for block in unet.down_blocks:
            h, size = self._block(block, h, size, temb, skips, down=True)
        if (mid := unet.mid_block) is not None:
            h = self._resnet(mid.resnets[0], h, size, temb)
            if mid.has_attention:
                h = self._attention(mid.attentions[0], h, size)
            h = self._resnet(mid.resnets[1], h, size, temb)
        for block in unet.up_blocks:
            h, size = self._block(block, h, size, temb, skips, down=False)
        h = op.swish(self._norm(unet.conv_norm_out, h, size))
        return ov.Model([self._conv_out(h)], inputs, "unet")

    def _block(
        self, block: Layer, h: Node, size: int, temb: Node, skips: list[Node], *, down: bool
    ) -> tuple[Node, int]:
        for i, resnet in enumerate(block.resnets):
            if not down:
                h = op.concat([h, skips.pop()], 2)
            h = self._resnet(resnet, h, size, temb)
            if block.has_attention:
                h = self._attention(block.attentions[i], h, size)
            if down:
                skips.append(h)
        if block.has_resample:
            layer = getattr(block, block.resample)[0]
            h = self._conv(layer.conv, h, (strided if down else upsampled)(size))
            h = op.add(h, self._constant(array(layer.conv.bias)))
            size = size // 2 if down else 2 * size
            if down:
                skips.append(h)
        return h, size

    def _resnet(self, resnet: Layer, x: Node, size: int, temb: Node) -> Node:
        """conv1's bias goes with the time embedding, conv2's with the shortcut."""
        project = resnet.time_emb_proj
        shift = self._linear(temb, array(project.weight), array(project.bias + resnet.conv1.bias))
        h = self._conv(resnet.conv1, op.swish(self._norm(resnet.norm1, x, size)), same(size))
        h = op.swish(self._norm(resnet.norm2, h, size, shift))
        h = self._conv(resnet.conv2, h, same(size))
        if resnet.conv_shortcut is None:
            x = op.add(x, self._constant(array(resnet.conv2.bias)))
        else:
            bias = resnet.conv_shortcut.bias + resnet.conv2.bias
            x = self._linear(x, array(resnet.conv_shortcut.weight[:, :, 0, 0]), array(bias))
        return self._scaled(op.add(h, x), resnet.scale)

    def _attention(self, layer: Layer, x: Node, size: int) -> Node:
        rows, channels = self.rows, layer.to_q.in_features
        width = channels // layer.heads
        h = x if layer.group_norm is None else self._norm(layer.group_norm, x, size)

        def heads(linear: Layer, factor: float = 1.0) -> Node:  # (1, B*heads, h*w, width)
            y = self._linear(h, array(linear.weight * factor), array(linear.bias * factor))
            y = self._reshape(y, 1, size * size, rows * layer.heads, width)
            return self._transpose(y, 0, 2, 1, 3)

        q, k, v = heads(layer.to_q, width**-0.5), heads(layer.to_k), heads(layer.to_v)
        mixed = op.matmul(op.softmax(op.matmul(q, k, False, True), -1), v, False, False)
        mixed = self._reshape(self._transpose(mixed, 0, 2, 1, 3), size * size, rows, channels)
        out = self._linear(mixed, array(layer.to_out[0].weight), array(layer.to_out[0].bias))
        return self._scaled(op.add(out, x), layer.scale)

    def _norm(self, norm: Layer, x: Node, size: int, shift: Node = None) -> Node:
        """Group norm of x + shift, (B, C): as x * a + b, whatever is small being done first."""
        rows, groups = self.rows, (self.rows, norm.num_groups, norm.num_channels // norm.num_groups)
        axis, last = op.constant(np.array([0])), op.constant(np.array([2]))
        mean = op.reduce_mean(x, axis, False)
        square = op.reduce_l2(x, axis, False)
        square = op.multiply(op.multiply(square, square), np.float32(1 / size**2))
        if shift is not None:
            square = op.add(square, op.multiply(shift, op.add(op.add(mean, mean), shift)))
            mean = op.add(mean, shift)
        mean = op.reduce_mean(self._reshape(mean, *groups), last, True)
        square = op.reduce_mean(self._reshape(square, *groups), last, True)
        variance = op.subtract(square, op.multiply(mean, mean))
        variance = op.maximum(variance, np.float32(0))  # rounding can take it below
        deviation = op.sqrt(op.add(variance, np.float32(norm.eps)))
        weight, bias = (
            self._constant(array(p).reshape(1, *groups[1:])) for p in (norm.weight, norm.bias)
        )
        a = op.divide(weight, deviation)
        if shift is not None:
            mean = op.subtract(mean, self._reshape(shift, *groups))
        b = op.subtract(bias, op.multiply(mean, a))
        a, b = (self._reshape(v, rows, norm.num_channels) for v in (a, b))
        return op.add(op.multiply(x, a), b)

    def _conv(self, conv: Layer, x: Node, transform: Transform) -> Node:
        """A 3x3 convolution without its bias."""
        din, g, aout = transform
        points, tiles, size = din.shape
        out, rows, cin, cout = len(aout), self.rows, conv.in_channels, conv.out_channels
        if conv not in self._weights:
            taps = torch.from_numpy(g)
            w = taps @ conv.weight.detach().double().cpu() @ taps.T  # (cout, cin, points, points)
            self._weights[conv] = array(w.permute(2, 3, 0, 1).reshape(-1, cout, cin).contiguous())
        weight = self._constant(self._weights[conv])

        def multiply(v: Node) -> Node:
            v = self._reshape(v, points * points, tiles * rows, cin)
            return op.matmul(v, weight, False, True)

        if tiles == 1 and points <= 6:  # both dimensions at once
            d, a = np.kron(din[:, 0], din[:, 0]), np.kron(aout[..., 0], aout[..., 0])
            m = multiply(self._apply(d, x, size * size, rows * cin))
            y = self._apply(a, m, points * points, rows * cout)
        else:  # columns, then rows, one row of tiles at a time: its values stay in the cache
            v = self._apply(din.reshape(-1, size), x, size, size, rows * cin)
            made = []
            for tile in range(tiles):
                m = multiply(self._apply(din[:, tile], v, size, points * tiles * rows * cin))
                a = aout[tile * out // tiles : (tile + 1) * out // tiles, :, tile]
                made.append(self._apply(a, m, points, points * tiles * rows * cout))
            y = op.concat(made, 0)
            y = self._apply(aout.reshape(out, -1), y, out, points * tiles, rows * cout)
        return self._reshape(y, out * out, rows, cout)

    def _conv_in(self, x: Node) -> Node:
        """Gather every position's neighbours, then one matmul."""
        conv: Layer = self.unet.conv_in
        size, rows = self.size, self.rows
        channels = conv.in_channels
        at = np.pad(np.arange(size * size).reshape(size, size), 1, constant_values=-1)
        at = np.lib.stride_tricks.sliding_window_view(at, (3, 3)).reshape(-1, 1, 9)
        planes = size * size * np.arange(channels)[:, None]
        index = np.where(at < 0, channels * size * size, at + planes)  # the last: a zero
        flat = self._reshape(x, rows, -1)
        flat = op.concat([flat, self._constant(np.zeros((rows, 1), np.float32))], 1)
        h = op.gather(flat, self._constant(index.reshape(-1)), op.constant(1))
        h = self._reshape(h, rows, size * size, channels * 9)
        h = self._linear(h, array(conv.weight).reshape(conv.out_channels, -1), array(conv.bias))
        return self._transpose(h, 1, 0, 2)

    def _conv_out(self, x: Node) -> Node:
        """One matmul to every tap's product, another that sums each position's nine."""
        conv: Layer = self.unet.conv_out
        size, rows = self.size, self.rows
        out = conv.out_channels
        weight = array(conv.weight).transpose(0, 2, 3, 1).reshape(out * 9, -1)
        at = np.pad(np.arange(size * size).reshape(size, size), 1, constant_values=-1)
        at = np.lib.stride_tricks.sliding_window_view(at, (3, 3)).reshape(-1, 9)
        gather = np.zeros((size * size, size * size, 9), np.float32)
        for i, j in zip(*np.nonzero(at >= 0), strict=True):
            gather[i, at[i, j], j] = 1
        z = self._reshape(self._linear(x, weight), size * size, rows, out, 9)
        z = self._reshape(self._transpose(z, 1, 2, 0, 3), rows * out, -1)
        y = self._reshape(self._linear(z, gather.reshape(size * size, -1)), rows, out, size, size)
        return op.add(y, self._constant(array(conv.bias).reshape(1, -1, 1, 1)))

    def _apply(self, matrix: NDArray[Any], x: Node, *shape: int) -> Node:
        matrix = self._constant(np.ascontiguousarray(matrix, dtype=np.float32))
        return op.matmul(matrix, self._reshape(x, *shape), False, False)

    def _linear(
        self, x: Node, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None
    ) -> Node:
        y = op.matmul(x, self._constant(weight), False, True)
        return y if bias is None else op.add(y, self._constant(bias))

    def _scaled(self, x: Node, scale: float) -> Node:
        return x if scale == 1 else op.divide(x, np.float32(scale))

    def _constant(self, value: NDArray[np.float32]) -> Node:
        return op.constant(np.ascontiguousarray(value), shared_memory=True)

    def _reshape(self, x: Node, *shape: int) -> Node:
        return op.reshape(x, np.array(shape), False)

    def _transpose(self, x: Node, *order: int) -> Node:
        return op.transpose(x, np.array(order))
