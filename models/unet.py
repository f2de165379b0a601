"""The denoising UNet, conditioned on time and class. Ho et al. 2020; Dhariwal & Nichol 2021.

Parameter names and arithmetic are those of diffusers' `UNet2DModel`.
"""

from functools import partial

from torch import Tensor

from models.backbone import UNetBackbone
from models.config import UNet2DConfig
from models.layers import SelfAttention, embedding


class UNet2D(UNetBackbone):
    """Predicts noise, velocity or sample from a noisy latent, its timestep and its class."""

    def __init__(self, config: UNet2DConfig) -> None:
        super().__init__(config)
        self.config: UNet2DConfig = config
        self.class_embedding = (
            embedding(config.num_class_embeds, self.temb_dim) if config.num_class_embeds else None
        )
        widths, groups = config.block_out_channels, config.norm_num_groups
        attention = partial(SelfAttention, head_dim=config.attention_head_dim, eps=config.norm_eps)
        scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.add_blocks(
            config,
            lambda level: attention(widths[level], groups=groups, scale=1.0),
            lambda: attention(
                widths[-1],
                groups=config.attn_norm_num_groups or (None if scale_shift else groups),
                scale=config.mid_block_scale_factor,
            ),
        )

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
        if (class_labels is None) != (self.class_embedding is None):
            have = "no classes" if self.class_embedding is None else "classes"
            raise ValueError(f"the UNet has {have}, class_labels is {class_labels}")
        temb = self.time_embedding(self.time_features(t).to(x.dtype))
        if self.class_embedding is not None:
            temb = temb + self.class_embedding(class_labels)
        return self.predict(x, temb)
