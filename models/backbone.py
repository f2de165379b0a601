"""What the UNets share: the way down, the middle, and the way up, which reads what the first left.

Ronneberger et al. 2015; Ho et al. 2020, app. B. Parameter names are diffusers'.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from models.config import UNetConfig
from models.layers import (
    Block,
    Conv2d,
    GroupNorm,
    MakeAttention,
    MidBlock,
    TimestepEmbedding,
    TimestepFeatures,
)


class UNetBackbone(nn.Module):
    """A UNet without what it is conditioned on.

    A subclass adds its conditions, then its blocks: in this order weights are drawn and named.
    """

    def __init__(self, config: UNetConfig, *, time_condition_dim: int | None = None) -> None:
        super().__init__()
        self.config = config
        widths = config.block_out_channels
        self.temb_dim = config.time_embedding_dim or 4 * widths[0]
        self.centred = config.center_input_sample
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_features = TimestepFeatures(
            widths[0], flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )
        self.time_embedding = TimestepEmbedding(widths[0], self.temb_dim, time_condition_dim)

    def add_blocks(
        self, config: UNetConfig, attention: Callable[[int], nn.Module], middle: MakeAttention
    ) -> None:
        """Make all blocks and the output's layers.

        Args:
            config: of the network.
            attention: makes what follows a ResNet of a level where the configuration asks for it.
            middle: makes it for the block in the middle.
        """
        widths, layers = config.block_out_channels, config.layers_per_block
        last = len(widths) - 1
        common: dict[str, Any] = {
            "groups": config.norm_num_groups,
            "eps": config.norm_eps,
            "temb_dim": self.temb_dim,
            "scale_shift": config.resnet_time_scale_shift == "scale_shift",
            "dropout": config.dropout,
        }

        def made(block_type: str, level: int) -> MakeAttention | None:
            return partial(attention, level) if "Attn" in block_type else None

        self.down_blocks = nn.ModuleList(
            Block(
                [widths[max(i - 1, 0)]] + [width] * (layers - 1),
                width,
                attention=made(config.down_block_types[i], i),
                downsample_padding=config.downsample_padding if i < last else None,
                **common,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = (
            MidBlock(
                widths[-1],
                attention=middle if config.middle_attends else None,
                scale=config.mid_block_scale_factor,
                **common,
            )
            if config.mid_block_type
            else None
        )

        # What the way down leaves for the way up, in order of making.
        skips = [widths[0]]
        for i, width in enumerate(widths):
            skips += [width] * (layers + (i < last))
        self.up_blocks = nn.ModuleList()
        below = widths[-1]
        for i, width in enumerate(reversed(widths)):
            inputs = [below] + [width] * layers
            self.up_blocks.append(
                Block(
                    [channels + skips.pop() for channels in inputs],
                    width,
                    attention=made(config.up_block_types[i], last - i),
                    upsample=i < last,
                    **common,
                )
            )
            below = width

        self.conv_norm_out = GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = Conv2d(widths[0], config.out_channels, 3, padding=1)

    def predict(self, x: Tensor, temb: Tensor, context: Tensor | None = None) -> Tensor:
        """Run all blocks.

        Args:
            x: noisy latents, (B, in_channels, h, w); h and w multiples of 2^(levels - 1).
            temb: the sum of all embeddings, (B, temb_dim).
            context: a text's tokens, (B, tokens, E).

        Returns:
            The prediction, (B, out_channels, h, w).
        """
        temb = nn.functional.silu(temb)
        x = self.conv_in(2 * x - 1 if self.centred else x)
        skips = [x]
        for block in self.down_blocks:
            x, made = block(x, temb, context)
            skips += made
        if self.mid_block is not None:
            x = self.mid_block(x, temb, context)
        for block in self.up_blocks:
            x, _ = block(x, temb, context, skips)
        out: Tensor = self.conv_out(self.conv_norm_out(x, silu=True))
        return out
