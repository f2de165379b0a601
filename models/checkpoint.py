"""Open, check and save a model folder in the layout of Hugging Face diffusers.

    model_index.json                            what is inside, and the names of the classes
    unet/config.json  unet/*.safetensors
    vae/config.json   vae/*.safetensors         or vqvae/, where the index has it so
    scheduler/scheduler_config.json

Weights are safetensors, never pickle. A class name is looked up in a table and never imported.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.conditioning import Classes
from models.config import (
    AutoencoderKLConfig,
    Config,
    ConfigError,
    DDIMConfig,
    UNet2DConfig,
    check_positions,
)
from models.files import CheckpointError as CheckpointError  # what opening raises
from models.files import read_json, write_json
from models.index import INDEX, ModelIndex
from models.memory import MAX_PARAMETERS, activations, available, check_room, parameters
from models.schedule import alpha_bars
from models.schedulers import SchedulerConfig
from models.sizes import MAX_SIDE, Sizes
from models.unet import UNet2D
from models.vae import AutoencoderKL
from models.weight_files import (
    WEIGHTS,
    is_variant,
    open_weights,
    read_weights,
    weight_files,
    weight_source,
)

_CONFIG, _SCHEDULE = "config.json", "scheduler/scheduler_config.json"
_FAINTEST = 1e-30  # an alpha-bar whose inverse is a float32 still
Network = TypeVar("Network", AutoencoderKL, UNet2D)


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder: networks in evaluation mode, on the device asked for."""

    vae: AutoencoderKL
    unet: UNet2D
    schedule: SchedulerConfig
    classes: Classes
    guidance_scale: float
    notes: tuple[str, ...] = ()  # lines for the user: what was ignored, or assumed
    sides: tuple[int, int] | None = None  # of images, the least and the most; the own size if None

    @property
    def sizes(self) -> Sizes:
        """The sizes of images that it may be asked for."""
        return _sizes(self.unet.config, self.vae.config, self.sides)


def open_checkpoint(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: int = 1,
) -> Checkpoint:
    """Open and check a whole model folder: configurations first, then memory, then weights.

    Args:
        folder: the model folder.
        device, dtype: of the networks.
        rows: images at once that memory must be there for.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown, pickled or too large; the
            message names the file and the key.
    """
    index = ModelIndex.read(folder)
    vae_path, unet_path = folder / index.vae / _CONFIG, folder / "unet" / _CONFIG
    vae_config, vae_notes = AutoencoderKLConfig.read(vae_path)
    unet_config, unet_notes = UNet2DConfig.read(unet_path)
    schedule, schedule_notes = _read_schedule(folder / _SCHEDULE)
    try:
        _check_latents(unet_config, vae_config)
    except ValueError as error:
        raise ConfigError(f"{unet_path}: {error}") from error
    try:
        _sizes(unet_config, vae_config, index.sides)
    except ValueError as error:
        raise ConfigError(f"{folder / INDEX}: {error}") from error
    try:
        classes, class_notes = _classes(index.classes, unet_config.num_class_embeds)
    except ValueError as error:
        raise ConfigError(f"{folder / INDEX}: id2label: {error}") from error

    vae, unet = _build(AutoencoderKL, vae_config, vae_path), _build(UNet2D, unet_config, unet_path)
    vae_dtype = _vae_dtype(vae_config, dtype)
    weights = parameters(vae) * vae_dtype.itemsize + parameters(unet) * dtype.itemsize
    work = activations(unet_config, vae_config, rows)
    check_room(unet_path, weights, work, available(torch.device(device)))
    _fill(vae, vae_path.parent, device, vae_dtype)
    _fill(unet, unet_path.parent, device, dtype)
    weight_notes = [*_weight_notes(unet_path.parent), *_weight_notes(vae_path.parent)]
    notes = (*class_notes, *schedule_notes, *unet_notes, *vae_notes, *weight_notes)
    return Checkpoint(vae, unet, schedule, classes, index.guidance_scale, notes, index.sides)


def open_vae(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderKL:
    """Open the autoencoder alone, in float32 if it asks for that; raises `CheckpointError`."""
    config, _ = AutoencoderKLConfig.read(folder / _CONFIG)
    vae = _build(AutoencoderKL, config, folder / _CONFIG)
    _fill(vae, folder, device, _vae_dtype(config, dtype))
    return vae


def save_checkpoint(
    folder: Path,
    *,
    vae: AutoencoderKL,
    unet: UNet2D,
    schedule: DDIMConfig,
    classes: tuple[str, ...],
    guidance_scale: float,
) -> None:
    """Write a model folder that opens here and, component by component, in diffusers."""
    save_network(folder / "vae", vae)
    save_network(folder / "unet", unet)
    write_json(folder / _SCHEDULE, schedule.to_dict())
    ModelIndex(classes, guidance_scale).write(folder)


def save_network(folder: Path, network: AutoencoderKL | UNet2D) -> None:
    """Write `config.json` and the weights of one network, the weights under their name last."""
    write_json(folder / _CONFIG, network.config.to_dict())
    tensors = {name: value.detach().cpu().contiguous() for name, value in _named(network).items()}
    partial = folder / f".{WEIGHTS}.partial"
    # Not save_file: it makes files that only their owner may read.
    partial.write_bytes(save(tensors, metadata={"format": "pt"}))
    partial.replace(folder / WEIGHTS)


def weights_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, over the weights of one network, in order of file name."""
    return _digest([path for path in weight_files(folder) if path.suffix == ".safetensors"])


def checkpoint_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, over all that an image's pixels depend on in a model folder.

    Those are the files it is opened from, in order of component and name; others are not read.

    Raises:
        CheckpointError: one of these is missing, or not of its kind.
    """
    files = [folder / _SCHEDULE]
    for network in (folder / "unet", folder / ModelIndex.read(folder).vae):
        files += sorted([network / _CONFIG, *weight_files(network)])
    return _digest(files)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        if path.suffix == ".safetensors":
            open_weights(path)
        else:
            read_json(path)
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _read_schedule(path: Path) -> tuple[SchedulerConfig, tuple[str, ...]]:
    """A schedule whose steps are finite: they divide by 1 - alpha-bar and, for epsilon, by it."""
    schedule, notes = SchedulerConfig.read(path)
    prediction = schedule.own.prediction_type
    alpha_bar = alpha_bars(schedule.own)[:-1]
    low, high = alpha_bar.min().item(), alpha_bar.max().item()
    if not (0 <= low <= high < 1 and (low or prediction != "epsilon")):
        raise ConfigError(
            f"{path}: num_train_timesteps and betas give alpha-bars from {low:g} to {high:g}; "
            f"allowed with prediction_type {prediction!r}: "
            f"{'above 0' if prediction == 'epsilon' else 'from 0'}, below 1"
        )
    exact = alpha_bars(schedule.own, torch.float64)[:-1]
    if not ((exact.diff() < 0).all() and (exact[:-1] >= _FAINTEST).all()):
        raise ConfigError(
            f"{path}: num_train_timesteps and betas give neighbours one alpha-bar, or one below "
            f"{_FAINTEST:g} before the last; allowed: each above that, and below the one before"
        )
    return schedule, (*notes, *_remarks(schedule))


def _remarks(schedule: SchedulerConfig) -> list[str]:
    """What a schedule does that users of another sampler may not expect."""
    remarks, own = [], schedule.own
    if math.isfinite(own.clip):  # latents have a variance of 1; images were meant
        limit = f"{own.clip:g}"
        remarks.append(
            f"clip_sample is true: predicted latents are kept within -{limit} to {limit}"
        )
    if own.timestep_spacing == "linspace" and schedule.sampler in ("ddim", "pndm"):  # schedule.py
        remarks.append("timestep_spacing is linspace: steps differ a little from diffusers")
    return [f"{_SCHEDULE}: {remark}" for remark in remarks]


def _classes(names: tuple[str, ...], rows: int | None) -> tuple[Classes, tuple[str, ...]]:
    """The classes, by number if they have no names; raises `ValueError`."""
    if names or not rows:
        return Classes.of(names, rows), ()
    note = (
        f"{INDEX}: id2label is missing: classes are called 0 to {rows - 1}, none is the null class"
    )
    return Classes.of(tuple(map(str, range(rows))), rows), (note,)


def _weight_notes(folder: Path) -> list[str]:
    source = weight_source(folder)
    return [f"{folder.name}/{source.name}: the only weights there"] if is_variant(source) else []


def _check_latents(unet: UNet2DConfig, vae: AutoencoderKLConfig) -> None:
    """Check that the VAE decodes the UNet's latents; raises `ValueError`."""
    latent = vae.latent_channels
    if (unet.in_channels, unet.out_channels) != (latent, latent):
        raise ValueError(
            f"in_channels {unet.in_channels} and out_channels {unet.out_channels}; "
            f"the VAE has latent_channels {latent}"
        )
    if unet.sample_size is None:
        raise ValueError("sample_size is missing")
    if vae.mid_block_add_attention:
        check_positions(unet.sample_size, math.prod(unet.latent_size))
    if (side := max(unet.latent_size) * vae.downscale) > MAX_SIDE:
        raise ValueError(
            f"sample_size is {unet.sample_size}, which makes images with a side of {side} pixels; "
            f"allowed: up to {MAX_SIDE}"
        )


def _sizes(unet: UNet2DConfig, vae: AutoencoderKLConfig, sides: tuple[int, int] | None) -> Sizes:
    """The sizes of images that a model may be asked for; raises `ValueError`."""
    height, width = (side * vae.downscale for side in unet.latent_size)
    if sides is None:
        return Sizes(width, height)
    least, most = sides
    step = vae.downscale * 2 ** (len(unet.block_out_channels) - 1)
    if not least <= min(width, height) <= max(width, height) <= most or least % step or most % step:
        raise ValueError(
            f"image_sides is {list(sides)}; allowed: two multiples of {step}, with the model's own "
            f"{width}x{height} between them"
        )
    largest = most // vae.downscale
    for level in unet.attending[:1]:
        check_positions(f"up to {largest}", largest**2 // 4**level)
    if vae.mid_block_add_attention:
        check_positions(f"up to {largest}", largest**2)
    return Sizes(width, height, step=step, least=least, most=most)


def _vae_dtype(config: AutoencoderKLConfig, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if config.force_upcast else dtype


def _build(kind: type[Network], config: Config, source: Path) -> Network:
    """A network on the meta device: shapes without memory, until the weights are known to fit."""
    with torch.device("meta"):
        network = kind(config)  # type: ignore[arg-type]
    if (count := parameters(network)) > MAX_PARAMETERS:
        raise ConfigError(
            f"{source}: block_out_channels and layers_per_block make {count:,} parameters; "
            f"allowed: up to {MAX_PARAMETERS:,}"
        )
    return network.requires_grad_(False).eval()


def _fill(network: nn.Module, folder: Path, device: torch.device | str, dtype: torch.dtype) -> None:
    weights = read_weights(folder, _named(network), device, dtype)
    network.load_state_dict(weights, assign=True)


def _named(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())
