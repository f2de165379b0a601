"""What the diffusion model learns from: latents of unit scale, and their cache.

Each latent channel is brought to mean 0 and variance 1 over the training set, and the affine is
folded into the VAE's own 1 x 1 convolutions: `scaling_factor` stays 1 and every reader agrees.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.training.images import Images
from models.vae import AutoencoderKL, DiagonalGaussian

_CHUNK = 500


@dataclass(frozen=True)
class LatentCache:
    """The posterior of every training image; a latent is drawn anew each time one is read."""

    mean: Tensor
    logvar: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, h, w) of one latent."""
        return tuple(self.mean.shape[1:])

    def draw(self, indices: Tensor, noise: Tensor) -> Tensor:
        """One latent an index, (B, C, h, w), from noise ~ N(0, I)."""
        return DiagonalGaussian(self.mean[indices], self.logvar[indices]).sample(noise)


@torch.inference_mode()
def cache_latents(vae: AutoencoderKL, images: Images, device: torch.device) -> LatentCache:
    """Encode a whole data set once; mean and log-variance, (N, C, h, w) each, on the CPU."""
    vae.to(device).eval()
    means, logvars = [], []
    for first in range(0, len(images), _CHUNK):
        posterior = vae.encode(images.scaled(slice(first, first + _CHUNK)).to(device))
        means.append(posterior.mean.cpu())
        logvars.append(posterior.logvar.cpu())
    return LatentCache(torch.cat(means), torch.cat(logvars))


def moments(cache: LatentCache) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of drawn latents by channel, (C,) each.

    The variance of a draw is that of the means plus the mean of the variances.
    """
    channels = cache.mean.double().transpose(0, 1).flatten(1)
    variance = channels.var(dim=1, correction=0)
    variance += cache.logvar.double().exp().transpose(0, 1).flatten(1).mean(dim=1)
    return channels.mean(dim=1), variance.sqrt()


@torch.no_grad()
def fold_normalisation(vae: AutoencoderKL, mean: Tensor, std: Tensor) -> None:
    """Make `encode` give (z - mean) / std and `decode` take it, by changing weights in place.

    Raises:
        ValueError: a VAE without `quant_conv` and `post_quant_conv` to fold into.
    """
    into, out_of = vae.quant_conv, vae.post_quant_conv
    if not isinstance(into, nn.Conv2d) or not isinstance(out_of, nn.Conv2d):
        raise ValueError("use_quant_conv and use_post_quant_conv must be true to fold latents")
    if into.bias is None or out_of.bias is None:
        raise ValueError("quant_conv and post_quant_conv need a bias to fold latents")
    mean, std = mean.to(into.weight), std.to(into.weight)
    channels = len(mean)
    # Rows 0..C-1 are means: mean' = (mean - m) / s. The rest are log-variances: - 2 log s.
    into.weight[:channels] /= std[:, None, None, None]
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    # The inverse on the way out: W (s z' + m) + b.
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean
    out_of.weight *= std[None, :, None, None]
