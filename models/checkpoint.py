"""Open, check and save a model: a folder in the layout of Hugging Face diffusers, or one file.

What a folder has is in parts.py. Weights are safetensors, never pickle.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.backbone import UNetBackbone
from models.conditional_unet import UNet2DCondition
from models.conditioning import Classes
from models.config import (
    MAX_POSITIONS,
    AutoencoderKLConfig,
    Config,
    ConfigError,
    DDIMConfig,
    UNet2DConditionConfig,
    UNet2DConfig,
    UNetConfig,
    check_positions,
)
from models.files import CheckpointError as CheckpointError  # what opening raises
from models.files import write_json
from models.index import INDEX, ModelIndex
from models.memory import (
    MAX_PARAMETERS,
    activations,
    available,
    check_room,
    parameters,
    plain_rows,
)
from models.parts import CONFIG, SCHEDULE, Part, Parts, TextPart
from models.sampling import Prediction
from models.schedule import alpha_bars
from models.schedulers import SchedulerConfig
from models.sizes import MAX_SIDE, Sizes
from models.text.clip import CLIPTextEncoder
from models.text.config import CLIPTextConfig
from models.text.prompts import PromptEncoder, Reader
from models.tiles import tile_side
from models.unet import UNet2D
from models.vae import AutoencoderKL
from models.weight_files import WEIGHTS, read_weights

_FAINTEST = 1e-30  # an alpha-bar whose inverse is a float32 still
Network = TypeVar("Network", bound=nn.Module)
C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Checkpoint:
    """An opened model: networks in evaluation mode, on the device asked for.

    `reader` encodes prompts, and is None for a model of classes; `zeros` says that an absent
    negative prompt is zeros, and not an empty text.
    """

    vae: AutoencoderKL
    unet: UNetBackbone
    schedule: SchedulerConfig
    classes: Classes
    guidance_scale: float
    notes: tuple[str, ...] = ()  # lines for the user: what was ignored, or assumed
    sides: tuple[int, int] | None = None  # of images, the least and the most; the own size if None
    reader: PromptEncoder | None = None
    zeros: bool = False

    @property
    def sizes(self) -> Sizes:
        """The sizes of images that it may be asked for."""
        return _sizes(self.unet.config, self.vae.config, self.sides)


def open_checkpoint(
    place: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    rows: int | None = 1,
    prediction: Prediction | None = None,
) -> Checkpoint:
    """Open and check a whole model: configurations first, then memory, then weights.

    Args:
        place: a model folder, or a `.safetensors` file.
        device, dtype: of the networks.
        rows: images at once that memory must be there for; those of the plain loop if None.
        prediction: what the UNet of a file predicts, where its user knows better than the file.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown, pickled or too large; the
            message names the file and the key.
    """
    parts = Parts.open(place, prediction)
    _check_schedule(parts.schedule_path, parts.schedule)
    vae_config, unet_config = parts.vae.config, parts.unet.config
    try:
        _check_latents(unet_config, vae_config)
        _check_texts(unet_config, parts.texts)
    except ValueError as error:
        raise ConfigError(f"{parts.unet.source}: {error}") from error
    try:
        _sizes(unet_config, vae_config, parts.index.sides)
    except ValueError as error:
        raise ConfigError(f"{parts.index_path}: {error}") from error
    try:
        classes, class_notes = _classes(parts.index.classes, unet_config)
    except ValueError as error:
        raise ConfigError(f"{parts.index_path}: id2label: {error}") from error

    vae, unet = _build(parts.vae, AutoencoderKL), _build(parts.unet, _unet)
    encoders = [_build(text, _text_encoder(text)) for text in parts.texts]
    vae_dtype = decoder_dtype(vae_config, dtype)
    held = sum(parameters(network) for network in (unet, *encoders))
    weights = parameters(vae) * vae_dtype.itemsize + held * dtype.itemsize
    work = activations(unet_config, vae_config, rows or plain_rows(unet_config, vae_config))
    check_room(parts.unet.source, weights, work, available(torch.device(device)))
    readers = [
        Reader(text.tokenizer(), encoder)
        for text, encoder in zip(parts.texts, encoders, strict=True)
    ]
    _fill(vae, parts.vae, device, vae_dtype)
    _fill(unet, parts.unet, device, dtype)
    if isinstance(unet, UNet2DCondition) and unet.config.distilled:
        unet.fix_guidance(parts.index.guidance_scale)
    for text, encoder in zip(parts.texts, encoders, strict=True):
        _fill(encoder, text, device, dtype)
    return Checkpoint(
        vae,
        unet,
        parts.schedule,
        classes,
        parts.index.guidance_scale,
        (*class_notes, *_remarks(parts.schedule), *_distilled(parts), *parts.notes),
        parts.index.sides,
        PromptEncoder(*readers) if readers else None,
        parts.index.zeros,
    )


def open_vae(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderKL:
    """Open the autoencoder alone, in float32 if it asks for that; raises `CheckpointError`."""
    config, _ = AutoencoderKLConfig.read(folder / CONFIG)
    part = Part(folder / CONFIG, config, partial(read_weights, folder))
    vae = _build(part, AutoencoderKL)
    _fill(vae, part, device, decoder_dtype(config, dtype))
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
    write_json(folder / SCHEDULE, schedule.to_dict())
    ModelIndex(classes, guidance_scale).write(folder)


def save_network(folder: Path, network: AutoencoderKL | UNet2D) -> None:
    """Write `config.json` and the weights of one network, the weights under their name last."""
    write_json(folder / CONFIG, network.config.to_dict())
    tensors = {name: value.detach().cpu().contiguous() for name, value in _named(network).items()}
    partial = folder / f".{WEIGHTS}.partial"
    # Not save_file: it makes files that only their owner may read.
    partial.write_bytes(save(tensors, metadata={"format": "pt"}))
    partial.replace(folder / WEIGHTS)


def _check_schedule(path: Path, schedule: SchedulerConfig) -> None:
    """Check that steps are finite: they divide by 1 - alpha-bar and, for epsilon, by it."""
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
    return [f"{SCHEDULE}: {remark}" for remark in remarks]


def _distilled(parts: Parts) -> list[str]:
    config = parts.unet.config
    if not (isinstance(config, UNet2DConditionConfig) and config.distilled):
        return []
    scale = f"{parts.index.guidance_scale:g}"
    return [
        f"{parts.unet.source.name}: time_cond_proj_dim: guidance was distilled into the UNet; "
        f"its scale is {scale} (guidance_scale in {INDEX}), and requests cannot change it"
    ]


def _classes(names: tuple[str, ...], unet: UNetConfig) -> tuple[Classes, tuple[str, ...]]:
    """The classes, by number if they have no names; raises `ValueError`."""
    rows = unet.num_class_embeds if isinstance(unet, UNet2DConfig) else None
    if names or not rows:
        return Classes.of(names, rows), ()
    note = (
        f"{INDEX}: id2label is missing: classes are called 0 to {rows - 1}, none is the null class"
    )
    return Classes.of(tuple(map(str, range(rows))), rows), (note,)


def _check_latents(unet: UNetConfig, vae: AutoencoderKLConfig) -> None:
    """Check that the VAE decodes the UNet's latents; raises `ValueError`."""
    latent = vae.latent_channels
    if (unet.in_channels, unet.out_channels) == (2 * latent + 1, latent):
        raise ValueError(
            f"in_channels {unet.in_channels}: a UNet for inpainting, which reads a picture and a "
            f"mask besides; allowed: {latent}, to draw from prompts alone"
        )
    if (unet.in_channels, unet.out_channels) != (latent, latent):
        raise ValueError(
            f"in_channels {unet.in_channels} and out_channels {unet.out_channels}; "
            f"the VAE has latent_channels {latent}"
        )
    if unet.sample_size is None:
        raise ValueError("sample_size is missing")
    if vae.mid_block_add_attention:
        check_positions(unet.sample_size, min(math.prod(unet.latent_size), tile_side(vae) ** 2))
    if (side := max(unet.latent_size) * vae.downscale) > MAX_SIDE:
        raise ValueError(
            f"sample_size is {unet.sample_size}, which makes images with a side of {side} pixels; "
            f"allowed: up to {MAX_SIDE}"
        )


def _check_texts(unet: UNetConfig, texts: tuple[TextPart, ...]) -> None:
    """Check that the text encoders make what the UNet reads; raises `ValueError`."""
    if not isinstance(unet, UNet2DConditionConfig):
        return
    width = sum(text.config.hidden_size for text in texts)
    if unet.cross_attention_dim != width:
        raise ValueError(
            f"cross_attention_dim is {unet.cross_attention_dim}; the text encoders make {width}"
        )
    pooled = sum(text.config.projection_dim or 0 for text in texts if text.projected)
    if unet.pooled_dim != pooled:
        raise ValueError(
            f"projection_class_embeddings_input_dim is for pooled texts of {unet.pooled_dim}; the "
            f"text encoders make {pooled}"
        )


def _sizes(unet: UNetConfig, vae: AutoencoderKLConfig, sides: tuple[int, int] | None) -> Sizes:
    """The sizes of images that a model may be asked for; raises `ValueError`."""
    height, width = (side * vae.downscale for side in unet.latent_size)
    step = vae.downscale * 2 ** (len(unet.block_out_channels) - 1)
    if sides is None:
        return _sizes_of_texts(unet, vae, step) if _reads_texts(unet) else Sizes(width, height)
    least, most = sides
    if not least <= min(width, height) <= max(width, height) <= most or least % step or most % step:
        raise ValueError(
            f"image_sides is {list(sides)}; allowed: two multiples of {step}, with the model's own "
            f"{width}x{height} between them"
        )
    largest = most // vae.downscale
    for level in unet.attending[:1]:
        check_positions(f"up to {largest}", largest**2 // 4**level)
    if vae.mid_block_add_attention:
        check_positions(f"up to {largest}", min(largest, tile_side(vae)) ** 2)
    return Sizes(width, height, step=step, least=least, most=most)


def _sizes_of_texts(unet: UNetConfig, vae: AutoencoderKLConfig, step: int) -> Sizes:
    """Those that such networks are used for: from half of the own size to twice as much."""
    height, width = (side * vae.downscale for side in unet.latent_size)
    least = -(-min(height, width) // (2 * step)) * step
    most = min(2 * max(height, width), MAX_SIDE) // step * step
    positions = [4**level * MAX_POSITIONS for level in unet.attending[:1]]
    if vae.mid_block_add_attention and tile_side(vae) ** 2 > MAX_POSITIONS:  # of a tile
        positions.append(MAX_POSITIONS)
    pixels = min([*(count * vae.downscale**2 for count in positions), most**2])
    return Sizes(width, height, step=step, least=least, most=most, pixels=pixels)


def _reads_texts(unet: UNetConfig) -> bool:
    return isinstance(unet, UNet2DConditionConfig)


def decoder_dtype(config: AutoencoderKLConfig, dtype: torch.dtype) -> torch.dtype:
    """The VAE's type: what overflows in float16 is in float32, as in diffusers."""
    return torch.float32 if config.force_upcast and dtype == torch.float16 else dtype


def _unet(config: UNetConfig) -> UNetBackbone:
    if isinstance(config, UNet2DConditionConfig):
        return UNet2DCondition(config)
    assert isinstance(config, UNet2DConfig)
    return UNet2D(config)


def _text_encoder(text: TextPart) -> Callable[[CLIPTextConfig], CLIPTextEncoder]:
    return partial(CLIPTextEncoder, projected=text.projected)


def _build(part: Part[C], kind: Callable[[C], Network]) -> Network:
    """A network on the meta device: shapes without memory, until the weights are known to fit."""
    try:
        with torch.device("meta"):
            network = kind(part.config)
    except ValueError as error:
        raise ConfigError(f"{part.source}: {error}") from error
    if (count := parameters(network)) > MAX_PARAMETERS:
        raise ConfigError(
            f"{part.source}: block_out_channels and layers_per_block make {count:,} parameters; "
            f"allowed: up to {MAX_PARAMETERS:,}"
        )
    return network.requires_grad_(False).eval()


def _fill(
    network: nn.Module, part: Part[Config], device: torch.device | str, dtype: torch.dtype
) -> None:
    network.load_state_dict(part.read(_named(network), device, dtype), assign=True)


def _named(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())
