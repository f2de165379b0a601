"""The network that removes noise, as samplers and engine see it: what it reads besides latents.

This is the only place that knows whether a network takes classes or nothing at all.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.conditioning import Classes, Condition
from models.unet import UNet2D

# What the network reads for some rows besides latents and timesteps, each tensor (B, ...).
Conditioning = tuple[Tensor, ...]


class Denoiser:
    """A UNet in its own dtype, called with float32 latents and with conditionings.

    A conditioning has two sides: `CONDITIONAL`, what was asked for, and `UNCONDITIONAL`, what
    classifier-free guidance leads away from.
    """

    CONDITIONAL, UNCONDITIONAL = 0, 1

    def __init__(self, unet: UNet2D, classes: Classes) -> None:
        weight = next(unet.parameters())
        self.unet, self.device, self.dtype = unet, weight.device, weight.dtype
        self._classes, self._labelled = classes, unet.class_embedding is not None

    def encode(self, condition: Condition) -> Conditioning:
        """Both sides of a condition, each tensor (2, ...) on the CPU, as `blank` has room for."""
        if not self._labelled:
            return ()
        null = self._classes.null or 0  # a model without a null class is never guided
        index = condition.index
        return (torch.tensor([null if index is None else index, null]),)

    def blank(self, count: int) -> Conditioning:
        """Room for both sides of so many conditions, each tensor (count, 2, ...), on the device."""
        return tuple(
            torch.zeros(count, *side.shape, dtype=side.dtype, device=self.device)
            for side in self.encode(Condition(None))
        )

    def gather(self, conditions: Sequence[Condition], side: int) -> Conditioning:
        """One side of some conditions, one row for each, on the device."""
        encoded = [self.encode(condition) for condition in conditions]
        return tuple(
            torch.stack([sides[side] for sides in given]).to(self.device)
            for given in zip(*encoded, strict=True)
        )

    @torch.inference_mode()
    def time_embedding(self, t: float) -> Tensor:
        """What the network's blocks read of one timestep, (dim,) in the network's dtype."""
        features = self.unet.time_features(torch.tensor([t], device=self.device))
        made: Tensor = self.unet.time_embedding(features.to(self.dtype))
        return made[0]

    def without_time_embedding(self) -> UNet2D:
        """The same network, which reads time embeddings (B, dim) in place of timesteps."""
        bare, nothing = copy.copy(self.unet), nn.Identity()
        changed = {"time_features": nothing, "time_embedding": nothing}
        bare._modules = {**self.unet._modules, **changed}
        return bare

    def __call__(self, x: Tensor, t: Tensor, *conditioning: Tensor) -> Tensor:
        """The network's prediction, (B, C, h, w) float32.

        Args:
            x: latents, (B, C, h, w) float32.
            t: timesteps, (B,) float32.
            conditioning: one side for each row.
        """
        output: Tensor = self.unet(x.to(self.dtype), t, *conditioning)
        return output.float()
