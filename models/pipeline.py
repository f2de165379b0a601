"""A trained latent diffusion model: encode, decode, and `sample`, the plain loop.

`sample` is the plain loop, and what the serving engine must reproduce whatever shares its batches.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from models.checkpoint import Checkpoint, open_checkpoint
from models.ddim import ddim_step, guide
from models.schedule import alpha_bars, timestep_pairs

# Kernels choose their summation order by the shape of the batch, so a row's last bits depend on how
# many rows ride with it. UNet and decoder always run on blocks of exactly `block_rows` rows, short
# ones filled up: one shape, one order, the same bits (docs/decisions.md has what was measured).
BLOCK_ROWS = 16  # what is served; a larger block is faster for many images, with other last bits


class LatentDiffusion:
    """A VAE, a UNet and a noise schedule, on one device."""

    def __init__(self, checkpoint: Checkpoint, block_rows: int = BLOCK_ROWS) -> None:
        self.vae, self.unet = checkpoint.vae, checkpoint.unet
        self.schedule, self.classes = checkpoint.schedule, checkpoint.classes
        self.guidance_scale = checkpoint.guidance_scale
        weight = next(self.unet.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        self._vae_dtype = next(self.vae.parameters()).dtype
        self._block_rows = block_rows
        self.alpha_bar = alpha_bars(self.schedule).to(self.device)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        block_rows: int = BLOCK_ROWS,
    ) -> Self:
        """Open a model folder on `device` (see `pick_device`); raises `CheckpointError`."""
        on = pick_device(device)
        checkpoint = open_checkpoint(Path(path), device=on, dtype=dtype, rows=block_rows)
        return cls(checkpoint, block_rows)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        return self.unet.config.in_channels, *self.unet.config.latent_size

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of an image in pixels."""
        _, height, width = self.latent_shape
        return width * self.vae.config.downscale, height * self.vae.config.downscale

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], (B, C, H, W) -> the means of their scaled latents, (B, c, h, w)."""
        return self.vae.encode(images.to(self.device, self._vae_dtype)).mode().float()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w) -> images, (B, C, H, W) float32, nominally in [-1, 1]."""
        latents = latents.to(self.device, self._vae_dtype)
        return self._in_blocks(self.vae.decode, latents).float()

    def start(self, seed: int) -> tuple[Tensor, torch.Generator]:
        """The initial noise of one image, (C, h, w) float32, and its generator for DDIM's noise.

        Drawn on the CPU whatever the device, so a seed means the same noise everywhere.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(self.latent_shape, generator=generator), generator

    @torch.inference_mode()
    def sample(
        self,
        labels: Sequence[str | int | None],
        seeds: Sequence[int],
        *,
        steps: int = 50,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
    ) -> Tensor:
        """Draw one image a label. DDIM, Song et al. 2021, eq. 12; guidance, Ho & Salimans 2022.

        Args:
            labels: class names or indices; None for no class (guidance then changes nothing).
            seeds: one a label, 0 to 2^63 - 1.
            steps: 1 to T.
            guidance_scale: 1 is none; the model's own default where absent.
            guidance_interval: the part of the way that is guided, as fractions of the steps: step i
                is if start <= i / steps < end. After Kynkaanniemi et al. 2024, who bound the noise
                level where this bounds the step.
            eta: 0 deterministic, 1 ancestral.

        Returns:
            Images in [-1, 1], (B, C, H, W) float32.

        Raises:
            ValueError: an unknown class, steps out of range, seeds that do not match labels, or an
                image that is not finite.
        """
        x = self.denoise(
            labels,
            seeds,
            steps=steps,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            eta=eta,
        )
        images = self.decode(x)
        if not images.isfinite().all():
            raise ValueError("an image is not finite")
        return images.clamp(-1, 1)

    @torch.inference_mode()
    def denoise(
        self,
        labels: Sequence[str | int | None],
        seeds: Sequence[int],
        *,
        steps: int,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        eta: float = 0.0,
    ) -> Tensor:
        """The first half of `sample`: scaled latents, (B, C, h, w) float32."""
        if len(labels) != len(seeds):
            raise ValueError(f"{len(labels)} labels and {len(seeds)} seeds")
        rows, null, alpha_bar = len(labels), self.classes.null, self.alpha_bar
        indices = [self.classes.index(label) for label in labels]
        read = [null if index is None else index for index in indices]
        scale = self.guidance_scale if guidance_scale is None else guidance_scale
        scales = torch.full((rows,), scale, device=self.device)
        starts = [self.start(seed) for seed in seeds]
        x = torch.stack([noise for noise, _ in starts]).to(self.device)
        clip = self.schedule.clip_sample_range if self.schedule.clip_sample else None
        for i, (t, t_prev) in enumerate(timestep_pairs(self.schedule, steps)):
            guided = guidance_interval[0] <= i / steps < guidance_interval[1]
            if guided and scale != 1.0 and null is not None:
                both = self._predict(torch.cat([x, x]), t, read + [null] * rows)
                output = guide(both[:rows], both[rows:], scales)
            else:
                output = self._predict(x, t, read)
            noise = None
            if eta:
                drawn = [torch.randn(self.latent_shape, generator=own) for _, own in starts]
                noise = torch.stack(drawn).to(self.device)
            x, _ = ddim_step(
                x,
                output,
                alpha_bar[t].expand(rows),
                alpha_bar[t_prev].expand(rows),
                self.schedule.prediction_type,
                eta=torch.full((rows,), eta, device=self.device),
                noise=noise,
                clip=clip,
            )
        return x

    def _predict(self, x: Tensor, t: int, labels: Sequence[int | None]) -> Tensor:
        """The UNet's output for rows at one timestep, (B, C, h, w) float32."""
        inputs = [x.to(self.dtype), torch.full((len(x),), t, device=self.device)]
        if self.unet.class_embedding is not None:
            inputs.append(torch.tensor(labels, device=self.device))
        return self._in_blocks(self.unet, *inputs).float()

    def _in_blocks(self, network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Run rows through a network, `block_rows` at a time, short blocks filled up."""
        size, results = self._block_rows, []
        for first in range(0, len(inputs[0]), size):
            block = [tensor[first : first + size] for tensor in inputs]
            lack = size - len(block[0])
            if lack:
                block = [torch.cat([t, t[-1:].expand(lack, *t.shape[1:])]) for t in block]
            results.append(network(*block)[: size - lack])
        return torch.cat(results)


def pick_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1` ..., or `auto`: a GPU where there is one.

    Raises:
        ValueError: any other name, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name not in ("cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise ValueError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1 ...")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} is not there: {torch.cuda.device_count()} GPUs found")
    return torch.device(name)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1], (B, C, H, W) -> pixels 0..255, (B, H, W, C) uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
