"""The shipped digits sampled with diffusers' modules, for both peers."""

import io
from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DModel
from PIL import Image
from pydantic import BaseModel, Field

from models.library import find

NULL_CLASS = 10  # the row of the class embedding that stands for no class


class Body(BaseModel):
    """The request that every server of the benchmark takes."""

    label: int = Field(alias="class")
    steps: int
    guidance_scale: float
    seed: int


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Digits:
    """VAE, UNet and DDIM scheduler as diffusers loads them. One thread at a time may use it."""

    def __init__(self, device: str) -> None:
        folder, plainly = find("digits"), {"low_cpu_mem_usage": False}  # needs no other package
        vae = AutoencoderKL.from_pretrained(folder, subfolder="vae", **plainly)
        unet = UNet2DModel.from_pretrained(folder, subfolder="unet", **plainly)
        self.device, self.vae, self.unet = device, vae.to(device), unet.to(device)
        self.scheduler = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")

    @torch.inference_mode()
    def draw(self, batch: Sequence[Body]) -> list[bytes]:
        """One PNG a request. All must ask for the same number of steps.

        A guided request is two rows of the UNet, with and without its class; any other is one.
        """
        size = self.unet.config.sample_size
        shape = (self.unet.config.in_channels, size, size)
        noise = [
            torch.randn(shape, generator=torch.Generator().manual_seed(one.seed)) for one in batch
        ]
        x = torch.stack(noise).to(self.device)  # (B, C, h, w)
        guided = [i for i, one in enumerate(batch) if one.guidance_scale != 1]
        labels = [one.label for one in batch] + [NULL_CLASS] * len(guided)
        classes = torch.tensor(labels, device=self.device)  # (B + guided,)
        scales = torch.tensor([batch[i].guidance_scale for i in guided], device=self.device)
        scale = scales.view(-1, 1, 1, 1)
        self.scheduler.set_timesteps(batch[0].steps)
        for t in self.scheduler.timesteps:
            output = self.unet(torch.cat([x, x[guided]]), t, class_labels=classes).sample
            predicted, null = output[: len(batch)], output[len(batch) :]
            if guided:
                predicted[guided] = null + scale * (predicted[guided] - null)
            x = self.scheduler.step(predicted, t, x).prev_sample
        images = self.vae.decode(x / self.vae.config.scaling_factor).sample[:, 0].clamp(-1, 1)
        return [encode(image) for image in ((images + 1) * 127.5).round().byte().cpu()]


def encode(pixels: torch.Tensor) -> bytes:
    """Grey pixels, (H, W) uint8 -> a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return file.getvalue()
