"""The network that removes noise, as samplers and engine see it: what it reads besides latents.

This is the only place that knows whether a network takes classes, texts or nothing at all.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.backbone import UNetBackbone
from models.conditional_unet import UNet2DCondition
from models.conditioners import ByClass, ByPrompt, Conditioner, Conditioning, Size
from models.conditioning import Classes, Condition, Cut
from models.text.prompts import PromptEncoder
from models.unet import UNet2D


class Denoiser:
    """A UNet in its own dtype, called with float32 latents and with conditionings.

    A conditioning has two sides: `CONDITIONAL`, what was asked for, and `UNCONDITIONAL`, what
    classifier-free guidance leads away from.
    """

    CONDITIONAL, UNCONDITIONAL = 0, 1

    def __init__(self, unet: UNetBackbone, conditioner: Conditioner) -> None:
        weight = next(unet.parameters())
        self.unet, self.device, self.dtype = unet, weight.device, weight.dtype
        self._conditioner = conditioner

    @classmethod
    def of(
        cls, unet: UNetBackbone, classes: Classes, reader: PromptEncoder | None, *, zeros: bool
    ) -> "Denoiser":
        """A UNet that reads what `reader` makes of prompts, or one of the classes."""
        if isinstance(unet, UNet2DCondition) and reader:
            return cls(unet, ByPrompt(unet, reader, zeros=zeros))
        assert isinstance(unet, UNet2D)
        return cls(unet, ByClass(classes, labelled=unet.class_embedding is not None))

    def expect(self, condition: Condition) -> None:
        """Begin what `encode` will have to do, if that can go on beside other work."""
        self._conditioner.expect(condition)

    def encode(self, condition: Condition, size: Size) -> tuple[Conditioning, Cut]:
        """Both sides of a condition, each tensor (2, ...), as `blank` has room for; what was cut.

        Args:
            condition: what an image is to show.
            size: (width, height) of the image in pixels.
        """
        return self._conditioner.encode(condition, size)

    def blank(self, count: int) -> Conditioning:
        """Room for both sides of so many conditions, each tensor (count, 2, ...), on the device."""
        return tuple(side.to(self.device) for side in self._conditioner.blank(count))

    def examples(self, count: int, size: Size) -> Conditioning:
        """Both sides of so many conditions that can be asked for, each (count, 2, ...)."""
        return self.gather(self._conditioner.examples(count), size)

    def gather(self, conditions: Sequence[Condition], size: Size) -> Conditioning:
        """Both sides of some conditions, each tensor (B, 2, ...), on the device."""
        encoded = [self.encode(condition, size)[0] for condition in conditions]
        return tuple(torch.stack(sides).to(self.device) for sides in zip(*encoded, strict=True))

    @torch.inference_mode()
    def time_embedding(self, t: float) -> Tensor:
        """What the network's blocks read of one timestep, (dim,) in the network's dtype."""
        features = self.unet.time_features(torch.tensor([t], device=self.device))
        made: Tensor = self.unet.time_embedding(features.to(self.dtype))
        return made[0]

    def without_time_embedding(self) -> UNetBackbone:
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
