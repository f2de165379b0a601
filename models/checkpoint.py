"""Open, check and save a model folder in the layout of Hugging Face diffusers.

    model_index.json                            what is inside, and the names of the classes
    unet/config.json  unet/*.safetensors
    vae/config.json   vae/*.safetensors
    scheduler/scheduler_config.json

Weights are safetensors, never pickle. A class name is looked up in a table and never imported.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from models.conditioning import Classes
from models.config import (
    AutoencoderKLConfig,
    CheckpointError,
    Config,
    ConfigError,
    DDIMConfig,
    UNet2DConfig,
    read_json,
)
from models.unet import UNet2D
from models.vae import AutoencoderKL

WEIGHTS = "diffusion_pytorch_model.safetensors"
_SHARDS = f"{WEIGHTS}.index.json"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
Network = TypeVar("Network", AutoencoderKL, UNet2D)
_KNOWN = {"vae": "AutoencoderKL", "unet": "UNet2DModel", "scheduler": "DDIMScheduler"}


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says beside the list of components."""

    classes: tuple[str, ...] = ()
    guidance_scale: float = 1.0

    @classmethod
    def read(cls, folder: Path) -> "ModelIndex":
        """Read the index and check each component's class against the table of what we build.

        Raises:
            CheckpointError: no such folder or file, a component missing or of an unknown class.
        """
        path = folder / "model_index.json"
        if not path.is_file():
            raise CheckpointError(f"{folder}: not a model folder: model_index.json is missing")
        values = read_json(path)
        for component, known in _KNOWN.items():
            entry = values.get(component)
            found = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
            if found != known:
                raise ConfigError(f"{path}: {component} is {found!r}; allowed: {known!r}")
        labels = values.get("id2label", {})
        if not isinstance(labels, dict) or set(labels) != {str(i) for i in range(len(labels))}:
            raise ConfigError(f"{path}: id2label must map '0', '1', ... to class names")
        names = tuple(str(labels[str(i)]) for i in range(len(labels)))
        if not all(name.strip() == name and name.isprintable() and name for name in names):
            raise ConfigError(f"{path}: id2label: a class name is one line that is not empty")
        if len(set(names)) != len(names):
            raise ConfigError(f"{path}: id2label names a class twice")
        scale = values.get("guidance_scale", 1.0)
        if type(scale) not in (int, float) or not 0 <= scale < math.inf:
            raise ConfigError(f"{path}: guidance_scale is {scale!r}; allowed: a number from 0")
        return cls(names, float(scale))

    def write(self, folder: Path) -> None:
        """Write `model_index.json`."""
        values: dict[str, Any] = {"_class_name": "LatentDiffusion"}
        values |= {name: ["diffusers", known] for name, known in _KNOWN.items()}
        values["id2label"] = {str(i): name for i, name in enumerate(self.classes)}
        values["guidance_scale"] = self.guidance_scale
        _write_json(folder / "model_index.json", values)


@dataclass(frozen=True)
class Checkpoint:
    """An opened model folder: networks in evaluation mode, on the device asked for."""

    vae: AutoencoderKL
    unet: UNet2D
    schedule: DDIMConfig
    classes: Classes
    guidance_scale: float


def open_checkpoint(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> Checkpoint:
    """Open and check a whole model folder.

    Raises:
        CheckpointError: anything missing, misshapen, truncated, unknown or pickled; the message
            names the file and the key.
    """
    index = ModelIndex.read(folder)
    vae = open_vae(folder / "vae", device=device, dtype=dtype)
    unet_config = UNet2DConfig.read(folder / "unet" / "config.json")
    unet = _open_network(UNet2D, unet_config, folder / "unet", device, dtype)
    schedule_path = folder / "scheduler" / "scheduler_config.json"
    schedule = DDIMConfig.read(schedule_path)
    latent = vae.config.latent_channels
    if (unet_config.in_channels, unet_config.out_channels) != (latent, latent):
        raise ConfigError(
            f"{folder / 'unet' / 'config.json'}: in_channels {unet_config.in_channels} and "
            f"out_channels {unet_config.out_channels}; the VAE has latent_channels {latent}"
        )
    if unet_config.sample_size is None:
        raise ConfigError(f"{folder / 'unet' / 'config.json'}: sample_size is missing")
    try:
        classes = Classes.of(index.classes, unet_config.num_class_embeds)
    except ValueError as error:
        raise ConfigError(f"{folder / 'model_index.json'}: id2label: {error}") from error
    return Checkpoint(vae, unet, schedule, classes, index.guidance_scale)


def open_vae(
    folder: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> AutoencoderKL:
    """Open the autoencoder alone, in float32 where it asks for that; raises `CheckpointError`."""
    config = AutoencoderKLConfig.read(folder / "config.json")
    dtype = torch.float32 if config.force_upcast else dtype
    return _open_network(AutoencoderKL, config, folder, device, dtype)


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
    _write_json(folder / "scheduler" / "scheduler_config.json", schedule.to_dict())
    ModelIndex(classes, guidance_scale).write(folder)


def save_network(folder: Path, network: AutoencoderKL | UNet2D) -> None:
    """Write `config.json` and the weights of one network, the weights under their name last."""
    _write_json(folder / "config.json", network.config.to_dict())
    tensors = {name: value.detach().cpu().contiguous() for name, value in _named(network).items()}
    partial = folder / f".{WEIGHTS}.partial"
    # Not save_file: it makes files that only their owner may read.
    partial.write_bytes(save(tensors, metadata={"format": "pt"}))
    partial.replace(folder / WEIGHTS)


def weights_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, over the weight files of one network, in order of name."""
    return _digest(sorted(folder.glob("*.safetensors")))


def checkpoint_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, over all that an image's pixels depend on in a model folder."""
    files = [path for part in sorted(_KNOWN) for path in sorted((folder / part).glob("*"))]
    return _digest([path for path in files if path.suffix in (".json", ".safetensors")])


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _open_network(
    build: type[Network],
    config: Config,
    folder: Path,
    device: torch.device | str,
    dtype: torch.dtype,
) -> Network:
    with torch.device("meta"):  # shapes without memory, until the weights are known to fit
        network = build(config)  # type: ignore[arg-type]
    network.load_state_dict(_read_weights(folder, _named(network), device, dtype), assign=True)
    return network.requires_grad_(False).eval()


def _read_weights(
    folder: Path, expected: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> dict[str, Tensor]:
    place = _weight_files(folder)
    if missing := sorted(expected.keys() - place.keys()):
        raise CheckpointError(f"{folder}: missing tensor {missing[0]!r}{_more(missing)}")
    if extra := sorted(place.keys() - expected.keys()):
        raise CheckpointError(f"{place[extra[0]]}: unknown tensor {extra[0]!r}{_more(extra)}")
    tensors = {}
    for path in sorted(set(place.values())):
        with _open_safetensors(path) as file:
            held = set(file.keys())
            for name in (name for name, at in place.items() if at == path):
                if name not in held:
                    raise CheckpointError(f"{path}: missing tensor {name!r}")
                shape, need = list(file.get_slice(name).get_shape()), list(expected[name].shape)
                if shape != need:
                    raise CheckpointError(
                        f"{path}: tensor {name!r} has shape {shape}; {need} needed"
                    )
                tensors[name] = file.get_tensor(name).to(device=device, dtype=dtype)
    return tensors


def _weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name -> the file that holds it, from one file or from a sharded index."""
    single, shards = folder / WEIGHTS, folder / _SHARDS
    if single.is_file():
        with _open_safetensors(single) as file:
            return dict.fromkeys(file.keys(), single)
    if shards.is_file():
        weight_map = read_json(shards).get("weight_map")
        if not isinstance(weight_map, dict):
            raise CheckpointError(f"{shards}: weight_map is missing")
        for name, file_name in weight_map.items():
            if not isinstance(file_name, str) or Path(file_name).name != file_name:
                raise CheckpointError(f"{shards}: weight_map {name!r} is not a file name")
        return {name: folder / file_name for name, file_name in weight_map.items()}
    pickles = sorted(path for path in folder.glob("*") if path.suffix in _PICKLES)
    if pickles:
        raise CheckpointError(
            f"{pickles[0]}: a pickle file can run code when it is read and is never opened; "
            f"save it as {WEIGHTS} first"
        )
    raise CheckpointError(f"{folder}: {WEIGHTS} is missing")


def _open_safetensors(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        kind = "missing" if not path.is_file() else "not a whole safetensors file"
        raise CheckpointError(f"{path}: {kind}: {error}") from error


def _named(network: nn.Module) -> dict[str, Tensor]:
    return dict(network.state_dict())


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
