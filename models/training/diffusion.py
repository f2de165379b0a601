"""Stage two: the UNet learns to take noise out of latents. Ho et al. 2020, algorithm 1."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.checkpoint import Checkpoint, open_vae, save_checkpoint
from models.conditioning import Classes
from models.digests import weights_digest
from models.pipeline import LatentDiffusion
from models.schedule import add_noise, alpha_bars, velocity
from models.schedulers import SchedulerConfig
from models.sheet import write_sheet
from models.training.data import load_both
from models.training.latents import LatentCache, cache_latents
from models.training.log import describe, say
from models.training.loop import TrainingError, fit, fit_batch, identify, processes
from models.training.randomness import generator, mix
from models.training.recipe import Recipe
from models.training.record import record
from models.unet import UNet2D
from models.vae import AutoencoderKL

_HELD_OUT = 2000
_GRID_ROWS, _GRID_STEPS = 4, 20


class DiffusionTask:
    """Mean squared error of noise, velocity or sample; uniform timesteps, some labels dropped."""

    def __init__(
        self,
        recipe: Recipe,
        latents: LatentCache,
        labels: Tensor,
        held_out: tuple[LatentCache, Tensor],
        vae: AutoencoderKL,
        classes: Classes,
        device: torch.device,
    ) -> None:
        self.size = len(labels)
        self._schedule, self._options = recipe.scheduler, recipe.train_diffusion
        self._alpha_bar = alpha_bars(recipe.scheduler)[:-1]
        self._latents, self._labels, self._held_out = latents, labels, held_out
        self._vae, self._classes, self._device = vae, classes, device

    def loss(
        self, network: nn.Module, indices: Tensor, step: int, rows: slice
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of these rows of the batch."""
        draw = generator(self._options.seed, "diffusion", step)
        return self._error(network, self._latents, self._labels, indices, draw, rows), {}

    @torch.inference_mode()
    def report(self, network: nn.Module) -> dict[str, float]:
        """Average loss on held-out images with the same noise every time."""
        latents, labels = self._held_out
        draw = generator(self._options.seed, "report", 0)
        count, total = min(len(labels), _HELD_OUT), 0.0
        for first in range(0, count, 250):
            indices = torch.arange(first, min(first + 250, count))
            error = self._error(network, latents, labels, indices, draw, slice(None))
            total += error.item() * len(indices) / count
        return {"loss": total}

    def draw(self, network: nn.Module) -> tuple[Tensor, int]:
        """Samples, one class a column."""
        assert isinstance(network, UNet2D)
        scale = self._options.guidance_scale
        schedule = SchedulerConfig.of(self._schedule)
        checkpoint = Checkpoint(self._vae, network, schedule, self._classes, scale)
        labels: list[str | int | None] = list(self._classes.names[:20]) or [None] * 8
        seeds = list(range(len(labels) * _GRID_ROWS))
        images = LatentDiffusion(checkpoint).sample(
            labels * _GRID_ROWS, seeds, steps=min(_GRID_STEPS, self._schedule.num_train_timesteps)
        )
        return images, len(labels)

    def _error(
        self,
        network: nn.Module,
        latents: LatentCache,
        labels: Tensor,
        indices: Tensor,
        draw: torch.Generator,
        rows: slice,
    ) -> Tensor:
        # The numbers of the whole batch, in a fixed order, so that any split of it draws the same.
        count, shape = len(indices), (len(indices), *latents.shape)
        posterior_noise, noise = (
            torch.randn(shape, generator=draw),
            torch.randn(shape, generator=draw),
        )
        t = torch.randint(self._schedule.num_train_timesteps, (count,), generator=draw)
        dropped = torch.rand(count, generator=draw) < self._options.label_dropout

        mine = indices[rows]
        x0 = latents.draw(mine, posterior_noise[rows]).to(self._device)
        noise, t = noise[rows].to(self._device), t[rows].to(self._device)
        alpha_bar = self._alpha_bar.to(self._device)[t][:, None, None, None]
        targets = {
            "epsilon": lambda: noise,
            "v_prediction": lambda: velocity(x0, noise, alpha_bar),
            "sample": lambda: x0,
        }
        given = None
        if self._classes.names:
            kept = labels[mine]
            if self._classes.null is not None:
                kept = torch.where(dropped[rows], self._classes.null, kept)
            given = kept.to(self._device)
        output = network(add_noise(x0, noise, alpha_bar), t, given)
        return F.mse_loss(output.float(), targets[self._schedule.prediction_type]())


def train_diffusion(
    recipe: Recipe,
    vae_folder: Path,
    data_dir: Path,
    out: Path,
    *,
    device: str = "auto",
    resume: bool = False,
) -> Path:
    """Train the UNet of a recipe on a trained VAE's latents; write the model folder `out/model`.

    Raises:
        CheckpointError: the VAE does not open.
        TrainingError: the VAE's latents are not what the UNet reads, and all `fit` raises.
    """
    with processes(device) as process:
        data = load_both(recipe.data, data_dir)
        train, test = data.train, data.test
        vae = open_vae(vae_folder, device=process.device)
        if vae.config.in_channels != recipe.data.channels:
            raise TrainingError(
                f"{vae_folder}: reads {vae.config.in_channels} channels; "
                f"the recipe's data has {recipe.data.channels}"
            )
        recipe = recipe.for_images(len(train), vae.config).with_classes(len(train.classes))
        latents = cache_latents(vae, train, process.device)
        size = recipe.unet.sample_size
        if latents.shape != (recipe.unet.in_channels, size, size):
            raise TrainingError(
                f"{vae_folder}: latents are {latents.shape}; the recipe's UNet reads "
                f"{(recipe.unet.in_channels, size, size)}"
            )
        held_out = cache_latents(vae, test, process.device), test.labels
        classes = Classes.of(train.classes, recipe.unet.num_class_embeds)
        options = fit_batch(recipe.train_diffusion, len(train), process)
        torch.manual_seed(mix(options.seed, "weights", 1))
        unet = UNet2D(recipe.unet)
        if process.main:
            say(data.summary)
            say(describe(unet, options))
        task = DiffusionTask(recipe, latents, train.labels, held_out, vae, classes, process.device)
        identity = identify(
            data=recipe.data, unet=recipe.unet, scheduler=recipe.scheduler, train=options
        )
        identity["vae"] = weights_digest(vae_folder)
        average = fit(task, unet, options, identity, out, process, resume=resume)
        if process.main:
            assert isinstance(average, UNet2D)
            record(out, recipe.data, data_dir)
            save_checkpoint(
                out / "model",
                vae=vae,
                unet=average,
                schedule=recipe.scheduler,
                classes=train.classes,
                guidance_scale=options.guidance_scale,
            )
            _show_classes(out / "model", process.device)
    return out / "model"


def _show_classes(folder: Path, device: torch.device) -> None:
    """Write the class sheet of a model that was trained; say so where it can have none."""
    try:
        model = LatentDiffusion.open(folder, device=str(device))
        if model.classes.names:
            write_sheet(folder, model)
    except ValueError as error:
        say(f"{folder}: no class sheet: {error}")
