"""Stage one: the autoencoder. Reconstruction + weighted KL, Kingma & Welling 2014, eq. 10."""

from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import save_network
from models.training.data import load_both
from models.training.images import Images
from models.training.latents import cache_latents, fold_normalisation, moments
from models.training.log import describe, say
from models.training.loop import fit, fit_batch, identify, processes
from models.training.randomness import generator, mix
from models.training.recipe import Recipe
from models.vae import AutoencoderKL

_HELD_OUT = 2000  # test images a report reads; the whole test set where it is smaller
_SHOWN = 10


class VAETask:
    """Absolute error summed over an image + kl_weight * its KL in nats, both per pixel value."""

    def __init__(self, recipe: Recipe, train: Images, test: Images, device: torch.device) -> None:
        self.size = len(train)
        self._options, self._device = recipe.train_vae, device
        self._train, self._test = train, test
        side = recipe.data.size // recipe.vae.downscale
        self._latent_shape = (recipe.vae.latent_channels, side, side)

    def loss(
        self, network: nn.Module, indices: Tensor, step: int, rows: slice
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss of these rows; parts `l1` and `kl` are sums over an image."""
        images = self._train.scaled(indices[rows])
        noise = torch.randn(
            (len(indices), *self._latent_shape),
            generator=generator(self._options.seed, "posterior", step),
        )[rows]
        loss, parts, _ = self._terms(network, images.to(self._device), noise.to(self._device))
        return loss, parts

    @torch.inference_mode()
    def report(self, network: nn.Module) -> dict[str, float]:
        """Average loss on held-out images, and PSNR in dB of their reconstructions."""
        images, noise = self._held_out(_HELD_OUT)
        totals = {"loss": 0.0, "l1": 0.0, "kl": 0.0, "psnr": 0.0}
        for first in range(0, len(images), 250):
            some = images[first : first + 250].to(self._device)
            z = noise[first : first + 250].to(self._device)
            loss, parts, restored = self._terms(network, some, z)
            parts |= {"loss": loss, "psnr": psnr(restored, some).mean()}
            for name in totals:
                totals[name] += parts[name].item() * len(some) / len(images)
        return totals

    @torch.inference_mode()
    def draw(self, network: nn.Module) -> tuple[Tensor, int]:
        """Held-out images, and under them what the autoencoder makes of them."""
        images, noise = (tensor.to(self._device) for tensor in self._held_out(_SHOWN))
        restored, _ = network(images, noise)
        return torch.cat([images, restored]), len(images)

    def _held_out(self, count: int) -> tuple[Tensor, Tensor]:
        """Test images, and the same noise for their latents every time."""
        images = self._test.scaled(slice(count))
        draw = generator(self._options.seed, "report", 0)
        return images, torch.randn((len(images), *self._latent_shape), generator=draw)

    def _terms(
        self, network: nn.Module, images: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The loss, its parts, and the reconstructions it was measured on."""
        restored, kl = network(images, noise)
        l1 = (restored.float() - images).abs().flatten(1).sum(1).mean()
        kl = kl.mean()
        loss = (l1 + self._options.kl_weight * kl) / images[0].numel()
        return loss, {"l1": l1.detach(), "kl": kl.detach()}, restored


def psnr(restored: Tensor, images: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image in dB, (B,); pixels in [-1, 1], so the peak is 2."""
    error = (restored.clamp(-1, 1) - images).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-12))


def train_vae(
    recipe: Recipe, data_dir: Path, out: Path, *, device: str = "auto", resume: bool = False
) -> Path:
    """Train the autoencoder of a recipe and write it, latents normalised, to `out/vae`.

    Raises:
        DataError, TrainingError, Interrupted: see their modules.
    """
    with processes(device) as process:
        data = load_both(recipe.data, data_dir)
        recipe = recipe.for_images(len(data.train))
        options = fit_batch(recipe.train_vae, len(data.train), process)
        torch.manual_seed(mix(options.seed, "weights", 0))
        vae = AutoencoderKL(recipe.vae)
        if process.main:
            say(data.summary)
            say(describe(vae, options))
        task = VAETask(recipe, data.train, data.test, process.device)
        identity = identify(data=recipe.data, vae=recipe.vae, train=options)
        average = fit(task, vae, options, identity, out, process, resume=resume)
        if process.main:
            assert isinstance(average, AutoencoderKL)
            latents = cache_latents(average, data.train, process.device)
            fold_normalisation(average, *moments(latents))
            save_network(out / "vae", average)
    return out / "vae"
