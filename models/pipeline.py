"""A trained latent diffusion model: encode, decode, `images`, and `sample`, the plain loop.

`sample` is the plain loop, and what the serving engine must reproduce whatever shares its batches.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self, Unpack

import torch
from PIL import Image
from torch import Tensor

from models.asked import Options, Sampling, read_labels, read_seeds
from models.backbone import UNetBackbone
from models.bounds import brief
from models.checkpoint import Checkpoint, open_checkpoint
from models.conditional_unet import UNet2DCondition
from models.conditioners import Conditioning, Size
from models.conditioning import MAX_PROMPT, Classes, Condition, Prompt, Prompts
from models.denoiser import Denoiser
from models.layers import allow_tf32, try_convolution
from models.library import find
from models.memory import plain_rows
from models.precision import set_precision
from models.samplers import HISTORY, guide, step, trajectory
from models.sampling import Prediction
from models.text.prompts import PromptEncoder

# Kernels choose their summation order by the shape of the batch, so a row's last bits depend on how
# many rows ride with it. UNet and decoder always run on blocks of exactly `block_rows` rows, short
# ones filled up: one shape, one order, the same bits (docs/decisions.md has what was measured).
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_BY_CUDNN = (
    "cuDNN makes convolutions: few numbers of rows give the same bits, so small ticks cost more"
)


class LatentDiffusion:
    """A VAE, a UNet and a noise schedule, on one device."""

    def __init__(
        self, checkpoint: Checkpoint, block_rows: int | None = None, *, tf32: bool = False
    ) -> None:
        """Run networks on blocks of `block_rows` rows; raises `ValueError` below 1.

        If absent, there are as many as `models.memory.plain_rows` says. `tf32` says what
        `set_precision` was told.
        """
        if block_rows is None:
            block_rows = plain_rows(checkpoint.unet.config, checkpoint.vae.config)
        if block_rows < 1:
            raise ValueError(f"block_rows is {block_rows}; allowed: from 1")
        self.vae, self.unet = checkpoint.vae, checkpoint.unet
        if next(self.unet.parameters()).is_cuda:  # as `models.convolution` reads weights
            for network in (self.unet, self.vae):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        reader, self.classes = checkpoint.reader, checkpoint.classes
        self.denoiser = Denoiser.of(self.unet, self.classes, reader, zeros=checkpoint.zeros)
        self.prompts = _prompts(self.unet, reader) if reader else None
        self.schedule = checkpoint.schedule
        self.guidance_scale, self.notes = checkpoint.guidance_scale, checkpoint.notes
        self.sizes = checkpoint.sizes
        self.device, self.dtype = self.denoiser.device, self.denoiser.dtype
        self.precision = "tf32" if tf32 else str(self.dtype).removeprefix("torch.")
        self._vae_dtype = next(self.vae.parameters()).dtype
        if self._vae_dtype != self.dtype:
            allow_tf32(self.vae)
        self._block_rows = block_rows

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        tf32: bool = False,
        block_rows: int | None = None,
        prediction: Prediction | None = None,
    ) -> Self:
        """Open a model. On a GPU, this sets the precision of the whole process; see `precision`.

        Args:
            path: the name of a model that ships, such as "digits", the path of a model, or its name
                on the Hugging Face hub; see `models.library.locate`. A `Path` is always a path.
            device: `auto`, `cpu`, `cuda`, `cuda:1` ...; see `pick_device`.
            dtype: of the networks: one of `DTYPES`.
            tf32: multiply float32 with ten bits of mantissa, several times as fast; on a GPU only.
            block_rows: rows that the networks are run on at once; 16 if absent, or fewer for large
                networks.
            prediction: what the UNet of a file predicts, where you know better than the file.

        Raises:
            CheckpointError: the folder cannot be opened; `notes` says what of one that can be was
                passed over or assumed.
            ValueError: another device, dtype or number of rows; or `tf32` without a GPU or float32.
        """
        on = pick_device(device)
        if dtype not in DTYPES:
            listed = ", ".join(map(str, DTYPES))
            raise ValueError(f"dtype is {brief(dtype)}; allowed: {listed}")
        if tf32 and (on.type != "cuda" or dtype != torch.float32):
            raise ValueError(f"tf32 needs a GPU and float32; the device is {on}, dtype is {dtype}")
        lacking = None
        if on.type == "cuda":
            set_precision(tf32=tf32)
            lacking = try_convolution(on)
        folder = find(path) if isinstance(path, str) else path
        checkpoint = open_checkpoint(
            folder, device=on, dtype=dtype, rows=block_rows, prediction=prediction
        )
        if lacking is not None:
            note = f"{_BY_CUDNN}: {brief(lacking)}"
            checkpoint = replace(checkpoint, notes=(*checkpoint.notes, note))
        return cls(checkpoint, block_rows, tf32=tf32)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent of the model's own size."""
        return self.unet.config.in_channels, *self.unet.config.latent_size

    @property
    def takes(self) -> Classes | Prompts:
        """What an image is asked for by."""
        return self.prompts or self.classes

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of an image of the model's own size, in pixels."""
        return self.size_of(self.latent_shape)

    def size_of(self, shape: tuple[int, int, int]) -> Size:
        """(width, height) in pixels of the image that is decoded from a latent of (C, h, w)."""
        _, height, width = shape
        return width * self.vae.config.downscale, height * self.vae.config.downscale

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], (B, C, H, W) -> the means of their scaled latents, (B, c, h, w).

        H and W are multiples of `vae.config.downscale`; raises `ValueError` for another shape.
        """
        channels, factor = self.vae.config.in_channels, self.vae.config.downscale
        if images.shape[1:2] != (channels,) or any(side % factor for side in images.shape[2:]):
            raise ValueError(
                f"images have the shape {tuple(images.shape)}; allowed: (B, {channels}, H, W), H "
                f"and W multiples of {factor}"
            )
        return self.vae.encode(images.to(self.device, self._vae_dtype)).mode().float()

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Scaled latents (B, c, h, w) -> images, (B, C, H, W) float32, nominally in [-1, 1].

        Raises:
            ValueError: another number of dimensions or channels.
        """
        channels = self.vae.config.latent_channels
        if latents.ndim != 4 or latents.shape[1] != channels:
            raise ValueError(
                f"latents have the shape {tuple(latents.shape)}; allowed: (B, {channels}, h, w)"
            )
        latents = latents.to(self.device, self._vae_dtype)
        return self._in_blocks(self.vae.decode, latents).float()

    def start(
        self, seed: int, shape: tuple[int, int, int] | None = None
    ) -> tuple[Tensor, torch.Generator]:
        """The initial noise of one image, (C, h, w) float32, and its generator for later noise.

        `shape` is the model's own if absent. Drawn on the CPU whatever the device, so a seed means
        the same noise everywhere.
        """
        generator = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape or self.latent_shape, generator=generator), generator

    def images(
        self,
        asked: Sequence[str | int | None],
        seeds: Sequence[int] | None = None,
        **options: Unpack[Options],
    ) -> list[Image.Image]:
        """Draw as `sample` does, as PIL images; `image.info["seed"]` is the seed of each.

        Raises:
            ValueError: as `sample`.
        """
        wanted = read_labels(asked)
        own = read_seeds(seeds, len(wanted))
        made = to_uint8(self.sample(wanted, own, **options))
        return [to_image(pixels, seed) for pixels, seed in zip(made, own, strict=True)]

    @torch.inference_mode()
    def sample(
        self,
        asked: Sequence[str | int | None],
        seeds: Sequence[int] | None = None,
        **options: Unpack[Options],
    ) -> Tensor:
        """Draw one image for each that is asked for, with guidance, Ho & Salimans 2022.

        Args:
            asked: class names or indices, None for no class (guidance then changes nothing); or,
                for a model that takes prompts, those.
            seeds: one per image, 0 to 2^63 - 1; random if absent (`images` says which they were).
            options: these, of which each may be left out:

                steps: 1 to T; 50.
                sampler: one of `schedule.samplers`; the model's own.
                spacing: how noise levels are placed, one of the sampler's `spacings`; the model's
                    own, where the sampler takes it.
                guidance_scale: 1 is none, 0 draws no class (and is none for a prompt); up to a
                    million; the model's own.
                guidance_interval: the part of the way that is guided, as fractions of the
                    evaluations: evaluation i of E is if begin <= i / E < end; all of it. After
                    Kynkaanniemi et al. 2024, who bound the noise level where this bounds the step.
                eta: 0 deterministic to 1 ancestral, for `ddim` alone; 0.
                start: how many steps are left out at the noisy end; 0.
                negative_prompt: what guidance leads away from, where the model takes prompts; none.
                clip_skip: the text encoder's last layers that are left out of prompts; 0.
                width, height: of the images in pixels; the model's own.

        Returns:
            Images in [-1, 1], (B, C, H, W) float32.

        Raises:
            ValueError: an argument is none of these; or an image is not finite.
        """
        images = self.decode(self.denoise(asked, seeds, **options))
        if not images.isfinite().all():
            raise ValueError("an image is not finite")
        return images.clamp(-1, 1)

    @torch.inference_mode()
    def denoise(
        self,
        asked: Sequence[str | int | None],
        seeds: Sequence[int] | None = None,
        *,
        latents: Tensor | None = None,
        **options: Unpack[Options],
    ) -> Tensor:
        """The first half of `sample`: scaled latents, (B, C, h, w) float32.

        `latents`, of the same shape, are what a way with a `start` begins from under its noise;
        zeros if absent.
        """
        wanted = read_labels(asked)
        seeds = read_seeds(seeds, len(wanted))
        sampling = Sampling.of(self.schedule, self.guidance_scale, **options)
        conditions = [self._condition(one, sampling) for one in wanted]
        size = self._size(sampling)
        shape = self._latent_shape(size)
        begun = [self.start(seed, shape) for seed in seeds]
        way = trajectory(
            self.schedule,
            sampling.sampler,
            sampling.steps,
            spacing=sampling.spacing,
            eta=sampling.eta,
            start=sampling.start,
        )
        x = way.noise * torch.stack([noise for noise, _ in begun]).to(self.device)
        if latents is not None:
            x = way.signal * self._checked(latents, (len(begun), *shape)) + x
        rows = len(conditions)
        read = self.denoiser.gather(conditions, size)
        own = tuple(sides[:, Denoiser.CONDITIONAL] for sides in read)
        both = tuple(sides.transpose(0, 1).flatten(0, 1) for sides in read)
        scale = self.takes.scale(sampling.guidance_scale)
        scales = torch.full((rows,), scale, device=self.device)
        guides = scale != 1 and self.takes.guides
        history = x.new_zeros(rows, HISTORY, *shape) if way.remembers else None
        coefficients = way.coefficients.float().to(self.device)
        for i, t in enumerate(way.timesteps.tolist()):
            if guides and sampling.guided(i):
                output = self._predict(torch.cat([x, x]), t, both)
                output = guide(output[:rows], output[rows:], scales)
            else:
                output = self._predict(x, t, own)
            noise = None
            if way.draws[i]:
                drawn = [torch.randn(shape, generator=draw) for _, draw in begun]
                noise = torch.stack(drawn).to(self.device)
            x, y = step(x, output, coefficients[i].expand(rows, -1), history, noise)
            if history is not None and way.kept[i] < HISTORY:
                history[:, way.kept[i]] = y
        return x

    def _condition(self, asked: str | int | None, sampling: Sampling) -> Condition:
        if self.prompts is None:
            if sampling.negative_prompt or sampling.clip_skip:
                raise ValueError("negative_prompt and clip_skip are for models that take prompts")
            return self.classes.condition(asked)
        if not isinstance(asked, str):
            raise ValueError(f"a prompt is {brief(asked)}; allowed: a text")
        if sampling.clip_skip > (most := self.prompts.clip_skip):
            raise ValueError(f"clip_skip is {sampling.clip_skip}; allowed: 0 to {most}")
        prompt = Prompt(asked, sampling.negative_prompt, sampling.clip_skip)
        if not self.prompts.knows(Condition(prompt=prompt)):
            raise ValueError(
                f"prompt is {brief(asked)}, negative_prompt {brief(sampling.negative_prompt)}; "
                f"allowed: texts of at most {MAX_PROMPT} characters, without NUL"
            )
        return Condition(prompt=prompt)

    def _size(self, sampling: Sampling) -> Size:
        """That of the images, if the model allows it."""
        width, height = self.image_size
        size = sampling.width or width, sampling.height or height
        self.sizes.check(*size)
        return size

    def _latent_shape(self, size: Size) -> tuple[int, int, int]:
        (width, height), factor = size, self.vae.config.downscale
        return self.latent_shape[0], height // factor, width // factor

    def _checked(self, latents: Tensor, shape: tuple[int, ...]) -> Tensor:
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents have the shape {tuple(latents.shape)}; allowed: {shape}")
        return latents.to(self.device, torch.float32)

    def _predict(self, x: Tensor, t: float, conditioning: Conditioning) -> Tensor:
        """The network's output for rows at one timestep, (B, C, h, w) float32."""
        times = torch.full((len(x),), float(t), device=self.device)
        return self._in_blocks(self.denoiser, x, times, *conditioning)

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


def _prompts(unet: UNetBackbone, reader: PromptEncoder) -> Prompts:
    distilled = isinstance(unet, UNet2DCondition) and unet.config.distilled
    return Prompts(reader.tokens, reader.most_clip_skip, guides=not distilled)


def pick_device(name: str) -> torch.device:
    """`cpu`, `cuda`, `cuda:1` ..., or `auto`: a GPU if there is one.

    Raises:
        ValueError: any other name, or a GPU that is not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, index = name.partition(":")
    if name not in ("cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise ValueError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, cuda:1 ...")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r} does not exist: {torch.cuda.device_count()} GPUs found")
    return torch.device(name)


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1], (B, C, H, W) -> pixels 0..255, (B, H, W, C) uint8."""
    return ((images + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)


def to_image(pixels: Tensor, seed: int) -> Image.Image:
    """Pixels (H, W, C) uint8, grey, RGB or RGBA -> a PIL image that knows its seed."""
    values = pixels.cpu().numpy()
    image = Image.fromarray(values[..., 0] if values.shape[-1] == 1 else values)
    image.info["seed"] = seed
    return image
