"""The denoising UNet, conditioned on time and class. Ho et al. 2020; Dhariwal & Nichol 2021.

Parameter names and arithmetic are those of diffusers' `UNet2DModel`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from models.config import UNet2DConfig
from models.layers import Block, MidBlock, TimestepEmbedding, TimestepFeatures


class UNet2D(nn.Module):
    """Predicts noise, velocity or sample from a noisy latent, its timestep and its class."""

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers_per_block
        temb_dim = config.time_embedding_dim or 4 * widths[0]
        scale_shift = config.resnet_time_scale_shift == "scale_shift"
        common: dict[str, Any] = {
            "groups": config.norm_num_groups,
            "eps": config.norm_eps,
            "temb_dim": temb_dim,
            "scale_shift": scale_shift,
            "dropout": config.dropout,
            "head_dim": config.attention_head_dim,
        }

        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_features = TimestepFeatures(
            widths[0], flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
        )
        self.time_embedding = TimestepEmbedding(widths[0], temb_dim)
        # randn is Embedding's own initialisation; the normal_() it would call imports torch._dynamo
        # on the meta device, where checkpoints are opened: a second of start-up.
        self.class_embedding = (
            nn.Embedding(
                config.num_class_embeds,
                temb_dim,
                _weight=torch.randn(config.num_class_embeds, temb_dim),
            )
            if config.num_class_embeds
            else None
        )

        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            Block(
                [widths[max(i - 1, 0)]] + [width] * (layers - 1),
                width,
                attention=config.down_block_types[i] == "AttnDownBlock2D",
                downsample_padding=config.downsample_padding if i < last else None,
                **common,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = (
            MidBlock(
                widths[-1],
                attention=config.add_attention,
                attention_groups=config.attn_norm_num_groups
                or (None if scale_shift else config.norm_num_groups),
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
                    attention=config.up_block_types[i] == "AttnUpBlock2D",
                    upsample=i < last,
                    **common,
                )
            )
            below = width

        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        """Run the network, every row with a timestep and a class of its own.

        Args:
            x: noisy latents, (B, in_channels, h, w); h and w multiples of 2^(blocks - 1).
            t: timesteps, (B,), in [0, T).
            class_labels: (B,) int64 in [0, num_class_embeds); None where the model has no classes.

        Returns:
            The prediction, (B, out_channels, h, w).

        Raises:
            ValueError: labels given to a model without classes, or missing for one with.
        """
        config = self.config
        if (class_labels is None) != (self.class_embedding is None):
            have = "no classes" if self.class_embedding is None else "classes"
            raise ValueError(f"the UNet has {have}, class_labels is {class_labels}")
        temb = self.time_embedding(self.time_features(t).to(x.dtype))
        if self.class_embedding is not None:
            temb = temb + self.class_embedding(class_labels)
        temb = nn.functional.silu(temb)

        x = self.conv_in(2 * x - 1 if config.center_input_sample else x)
        skips = [x]
        for block in self.down_blocks:
            x, made = block(x, temb)
            skips += made
        if self.mid_block is not None:
            x = self.mid_block(x, temb)
        for block in self.up_blocks:
            x, _ = block(x, temb, skips)
        out: Tensor = self.conv_out(nn.functional.silu(self.conv_norm_out(x)))
        return out
