"""Latents -> small images without the VAE: one convolution, fitted to its decoder.

A picture on its way needs no sharpness, and costs nearly nothing this way.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_NEIGHBOURS = 3  # a patch of the image depends on this many latents in each direction
_RIDGE = 1e-3  # of an input's mean square; bounds the map on inputs that the fit never saw


class LatentPreview:
    """A linear map from a latent and its neighbours to the patch of the image at its place."""

    def __init__(self, weight: Tensor, bias: Tensor, patch: int) -> None:
        self._weight, self._bias, self._patch = weight, bias, patch

    @classmethod
    def fit(cls, latents: Tensor, images: Tensor, *, longest: int = 128) -> "LatentPreview":
        """Least squares, with a ridge, over latents (B, C, h, w) and what the decoder made of them.

        `images` are (B, c, H, W); previews are as large, or smaller by a whole number where the
        longer side would be more than `longest` pixels (never smaller than the latent).

        It is solved on the CPU, whose memory is larger; the map is where the latents are.
        """
        device, latents, images = latents.device, latents.cpu(), images.cpu()
        height, width = latents.shape[2:]
        patch = math.gcd(images.shape[2] // height, images.shape[3] // width)
        while patch > 1 and (patch * max(height, width) > longest or images.shape[2] % patch):
            patch -= 1
        small = F.adaptive_avg_pool2d(images.double(), (height * patch, width * patch))
        wanted = F.pixel_unshuffle(small, patch).movedim(1, -1).flatten(0, 2)
        seen = F.unfold(latents.double(), _NEIGHBOURS, padding=_NEIGHBOURS // 2)
        seen = F.pad(seen.movedim(1, -1).flatten(0, 1), (0, 1), value=1.0)
        ridge = torch.eye(seen.shape[1], dtype=seen.dtype)
        ridge[-1, -1] = 0  # the bias is free
        ridge *= _RIDGE * len(seen) * seen[:, :-1].square().mean()
        solved = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted).T.float().to(device)
        shape = (len(solved), latents.shape[1], _NEIGHBOURS, _NEIGHBOURS)
        return cls(solved[:, :-1].reshape(shape).contiguous(), solved[:, -1].contiguous(), patch)

    def __call__(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) -> images (B, c, h * patch, w * patch), nominally in [-1, 1]."""
        seen = F.conv2d(latents, self._weight, self._bias, padding=_NEIGHBOURS // 2)
        return F.pixel_shuffle(seen, self._patch)
