"""Open, check and save a model: a folder in the layout of Hugging Face diffusers, or one file.

What a folder has is in parts.py. Weights are safetensors, never pickle.
"""

from collections.abc import Callable, Sequence
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
    AutoencoderKLConfig,
    Config,
    ConfigError,
    DDIMConfig,
    UNet2DConditionConfig,
    UNet2DConfig,
    UNetConfig,
)
from models.files import CheckpointError as CheckpointError  # what opening raises
from models.files import write_json
from models.fit import Fit, sizes_of
from models.index import ModelIndex
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
from models.schedulers import SchedulerConfig
from models.sizes import Sizes
from models.text.clip import CLIPTextEncoder
from models.text.config import CLIPTextConfig
from models.text.prompts import PromptEncoder, Reader
from models.unet import UNet2D
from models.vae import AutoencoderKL
from models.weight_files import WEIGHTS, FolderWeights

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
        return sizes_of(self.unet.config, self.vae.config, self.sides)


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
    fit = Fit.of(parts)
    vae_config, unet_config = parts.vae.config, parts.unet.config
    vae, unet, encoders = _networks(parts)
    vae_dtype = decoder_dtype(vae_config, dtype)
    others = sum(parameters(network) for network in (unet, *encoders))
    weights = weight_bytes(vae_config, parameters(vae), others, dtype)
    work = activations(unet_config, vae_config, rows or plain_rows(unet_config, vae_config))
    check_room(parts.unet.source, weights, work, available(torch.device(device)))
    reader = _reader(parts, encoders)
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
        fit.classes,
        parts.index.guidance_scale,
        fit.notes,
        parts.index.sides,
        reader,
        parts.index.zeros,
    )


def check_networks(parts: Parts) -> None:
    """Check weights, by their headers, and tokenizers as opening does; no data is read.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown, pickled or too large; the
            message names the file and the tensor.
    """
    vae, unet, encoders = _networks(parts)
    _reader(parts, encoders)
    for part, network in zip(
        (parts.vae, parts.unet, *parts.texts), (vae, unet, *encoders), strict=True
    ):
        part.weights.check(_named(network))


def open_vae(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderKL:
    """Open the autoencoder alone, in float32 if it asks for that; raises `CheckpointError`."""
    config, _ = AutoencoderKLConfig.read(folder / CONFIG)
    part = Part(folder / CONFIG, config, FolderWeights(folder))
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


def decoder_dtype(config: AutoencoderKLConfig, dtype: torch.dtype) -> torch.dtype:
    """The VAE's type: what overflows in float16 is in float32, as in diffusers."""
    return torch.float32 if config.force_upcast and dtype == torch.float16 else dtype


def weight_bytes(config: AutoencoderKLConfig, decoder: int, others: int, dtype: torch.dtype) -> int:
    """Bytes of the weights of a VAE of `decoder` parameters, and of networks of `others`."""
    return decoder * decoder_dtype(config, dtype).itemsize + others * dtype.itemsize


def _networks(parts: Parts) -> tuple[AutoencoderKL, UNetBackbone, list[CLIPTextEncoder]]:
    """Networks without weights; raises `ConfigError`."""
    encoders = [_build(text, _text_encoder(text)) for text in parts.texts]
    return _build(parts.vae, AutoencoderKL), _build(parts.unet, _unet), encoders


def _unet(config: UNetConfig) -> UNetBackbone:
    if isinstance(config, UNet2DConditionConfig):
        return UNet2DCondition(config)
    assert isinstance(config, UNet2DConfig)
    return UNet2D(config)


def _text_encoder(text: TextPart) -> Callable[[CLIPTextConfig], CLIPTextEncoder]:
    return partial(CLIPTextEncoder, projected=text.projected)


def _reader(parts: Parts, encoders: Sequence[CLIPTextEncoder]) -> PromptEncoder | None:
    """What encodes prompts; None for a model of classes. Raises `CheckpointError`."""
    readers = []
    for text, encoder in zip(parts.texts, encoders, strict=True):
        tokenizer = text.tokenizer()
        try:
            readers.append(Reader(tokenizer, encoder))
        except ValueError as error:
            raise ConfigError(f"{text.source}: {error}") from error
    try:
        return PromptEncoder(*readers) if readers else None
    except ValueError as error:
        raise ConfigError(f"{parts.index_path}: {error}") from error


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
    network.load_state_dict(part.weights.read(_named(network), device, dtype), assign=True)


def _named(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())
