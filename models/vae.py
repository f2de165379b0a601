"""The KL autoencoder: images <-> a small latent image. Kingma & Welling 2014; Rombach et al. 2022.

Parameter names and arithmetic are those of diffusers' `AutoencoderKL`.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from models.config import AutoencoderKLConfig
from models.layers import Block, Conv2d, GroupNorm, MidBlock, SelfAttention
from models.tiles import decode_in_tiles, tile_side

_EPS = 1e-6  # group norm, as diffusers fixes it for this network


@dataclass(frozen=True)
class DiagonalGaussian:
    """The posterior q(z|x): `mean` and `logvar`, each (B, C, h, w), in the UNet's scale."""

    mean: Tensor
    logvar: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Z = mean + std * noise, with noise ~ N(0, I). Kingma & Welling 2014, sec. 2.4."""
        return self.mean + torch.exp(0.5 * self.logvar) * noise

    def mode(self) -> Tensor:
        """The most likely latent: the mean."""
        return self.mean

    def kl(self) -> Tensor:
        """KL(q || N(0, I)) in nats, summed over each image, (B,). Kingma & Welling 2014, app. B."""
        mean, logvar = self.mean.float(), self.logvar.float()  # a long sum, whatever the precision
        return 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(1)


class Encoder(nn.Module):
    """(B, in_channels, H, W) -> (B, 2 * latent_channels, H/f, W/f): mean and log-variance."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList(
            Block(
                [widths[max(i - 1, 0)]] + [width] * (config.layers_per_block - 1),
                width,
                groups=groups,
                eps=_EPS,
                downsample_padding=0 if i < len(widths) - 1 else None,
            )
            for i, width in enumerate(widths)
        )
        self.mid_block = _mid_block(config)
        self.conv_norm_out = GroupNorm(groups, widths[-1], _EPS)
        self.conv_out = Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x, _ = block(x)
        x = self.mid_block(x)
        out: Tensor = self.conv_out(self.conv_norm_out(x, silu=True))
        return out


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> (B, out_channels, h*f, w*f)."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        widths, groups = tuple(reversed(config.block_out_channels)), config.norm_num_groups
        self.conv_in = Conv2d(config.latent_channels, widths[0], 3, padding=1)
        self.mid_block = _mid_block(config)
        self.up_blocks = nn.ModuleList(
            Block(
                [widths[max(i - 1, 0)]] + [width] * config.layers_per_block,
                width,
                groups=groups,
                eps=_EPS,
                upsample=i < len(widths) - 1,
            )
            for i, width in enumerate(widths)
        )
        self.conv_norm_out = GroupNorm(groups, widths[-1], _EPS)
        self.conv_out = Conv2d(widths[-1], config.out_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        x = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            x, _ = block(x)
        out: Tensor = self.conv_out(self.conv_norm_out(x, silu=True))
        return out


class AutoencoderKL(nn.Module):
    """Encoder, posterior, decoder. Scale and shift of the latents are applied in here alone."""

    def __init__(self, config: AutoencoderKLConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self._constants: tuple[Tensor, Tensor] | None = None
        self.quant_conv: nn.Module = (
            Conv2d(2 * channels, 2 * channels, 1) if config.use_quant_conv else nn.Identity()
        )
        self.post_quant_conv: nn.Module = (
            Conv2d(channels, channels, 1) if config.use_post_quant_conv else nn.Identity()
        )

    def encode(self, images: Tensor) -> DiagonalGaussian:
        """Images in [-1, 1], (B, C, H, W) -> the posterior of scaled latents.

        H and W must be multiples of `config.downscale`.
        """
        mean, logvar = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        shift, scale = self._affine(mean)
        return DiagonalGaussian(
            (mean - shift) * scale, logvar.clamp(-30.0, 20.0) + 2 * torch.log(scale)
        )

    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w) -> images, nominally in [-1, 1] and not clamped.

        Large ones are decoded in tiles; see models/tiles.py.
        """
        shift, scale = self._affine(latents)
        z, config = latents / scale + shift, self.config
        return decode_in_tiles(self._decode, z, tile_side(config), config.downscale)

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """One training pass: the reconstruction and the posterior's KL, (B, C, H, W) and (B,)."""
        posterior = self.encode(images)
        return self.decode(posterior.sample(noise)), posterior.kl()

    def _decode(self, z: Tensor) -> Tensor:
        out: Tensor = self.decoder(self.post_quant_conv(z))
        return out

    def _affine(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """(shift, scale) so that scaled = (raw - shift) * scale, each (1, C or 1, 1, 1).

        Made once per device and dtype: the copy makes a GPU wait, and no CUDA graph can hold it.
        """
        made = self._constants
        if made is None or (made[0].device, made[0].dtype) != (like.device, like.dtype):
            config = self.config
            shift = config.latents_mean or (config.shift_factor or 0.0,)
            scale = [config.scaling_factor / std for std in config.latents_std or (1.0,)]
            with torch.inference_mode(mode=False):  # training may come after, and saves them
                made = self._constants = (
                    like.new_tensor(shift).view(1, -1, 1, 1),
                    like.new_tensor(scale).view(1, -1, 1, 1),
                )
        return made


def _mid_block(config: AutoencoderKLConfig) -> MidBlock:
    width, groups = config.block_out_channels[-1], config.norm_num_groups
    one_head = partial(SelfAttention, width, head_dim=None, groups=groups, eps=_EPS, scale=1.0)
    attention = one_head if config.mid_block_add_attention else None
    return MidBlock(width, groups=groups, eps=_EPS, attention=attention)
