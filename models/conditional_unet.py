"""The denoising UNet, conditioned on time and text. Rombach et al. 2022; Podell et al. 2023.

Parameter names and arithmetic are those of diffusers' `UNet2DConditionModel`.
"""

import torch
from torch import Tensor

from models.backbone import UNetBackbone
from models.config import SIZE_NUMBERS, UNet2DConditionConfig
from models.layers import TimestepEmbedding, TimestepFeatures
from models.transformer import SpatialTransformer


class UNet2DCondition(UNetBackbone):
    """Predicts noise, velocity or sample from a noisy latent, its timestep and a text."""

    def __init__(self, config: UNet2DConditionConfig) -> None:
        super().__init__(config, time_condition_dim=config.time_cond_proj_dim)
        self.config: UNet2DConditionConfig = config
        self.add_embedding: TimestepEmbedding | None = None
        if config.pooled_dim:
            size_dim = config.addition_time_embed_dim or 0
            self.size_features = TimestepFeatures(
                size_dim, flip_sin_to_cos=config.flip_sin_to_cos, freq_shift=config.freq_shift
            )
            self.add_embedding = TimestepEmbedding(
                config.pooled_dim + SIZE_NUMBERS * size_dim, self.temb_dim
            )

        def attention(level: int) -> SpatialTransformer:
            return SpatialTransformer(
                config.block_out_channels[level],
                config.cross_attention_dim,
                heads=config.heads[level],
                depth=config.depths[level],
                groups=config.norm_num_groups,
                linear=config.use_linear_projection,
            )

        self.add_blocks(config, attention, lambda: attention(-1))

    def added(self, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """The added condition of prompts, for a network that has one. Podell et al. 2023, sec. 2.2.

        Args:
            pooled: pooled texts, (B, pooled_dim).
            time_ids: original height and width, top and left of the crop, height and width asked
                for, (B, 6), in pixels.

        Returns:
            The texts and the sinusoids of the numbers, (B, projection_class_embeddings_input_dim),
            in the type of `pooled`.
        """
        sizes = self.size_features(time_ids.flatten()).reshape(len(pooled), -1)
        return torch.cat([pooled, sizes.to(pooled.dtype)], dim=1)

    @torch.no_grad()
    def fix_guidance(self, scale: float) -> None:
        """Let a distilled network draw with this guidance scale, which it reads and does not need.

        Its first layer reads x + c, c for the scale: W (x + c) + b = W x + (W c + b). To be called
        once, with the weights there. Meng et al. 2023, sec. 3.1; Luo et al. 2023, sec. 4.2.
        """
        embedding, width = self.time_embedding, self.config.time_cond_proj_dim
        assert width is not None, "a network that reads its guidance scale"
        first = embedding.linear_1
        waves = TimestepFeatures(width, flip_sin_to_cos=False, freq_shift=1)
        scaled = waves(torch.tensor([1000 * (scale - 1)], device=first.weight.device))
        condition = embedding.cond_proj(scaled.to(first.weight.dtype))
        first.bias.add_(first.weight @ condition[0])

    def forward(self, x: Tensor, t: Tensor, context: Tensor, added: Tensor | None = None) -> Tensor:
        """Run the network, every row with a timestep and a text of its own.

        Args:
            x: noisy latents, (B, in_channels, h, w); h and w multiples of 2^(levels - 1).
            t: timesteps, (B,), in [0, T).
            context: the tokens of texts, (B, tokens, cross_attention_dim), in the type of `x`.
            added: what `added` makes, in the type of `x`; None where the network has none.

        Returns:
            The prediction, (B, out_channels, h, w).

        Raises:
            ValueError: an added condition given to a network without, or missing for one with.
        """
        if (added is None) != (self.add_embedding is None):
            have = "no added condition" if self.add_embedding is None else "an added condition"
            given = "none" if added is None else f"one of shape {tuple(added.shape)}"
            raise ValueError(f"the UNet has {have}, and was given {given}")
        temb = self.time_embedding(self.time_features(t).to(x.dtype))
        if self.add_embedding is not None:
            temb = temb + self.add_embedding(added)
        return self.predict(x, temb, context)
