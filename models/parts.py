"""The parts of a model, in a folder or in one file: configurations are read, weights are not yet.

    model_index.json                            what is inside, and the names of the classes
    unet/config.json  unet/*.safetensors
    vae/config.json   vae/*.safetensors         or vqvae/, where the index has it so
    scheduler/scheduler_config.json
    text_encoder/, tokenizer/                   of a model that draws prompts; SDXL has two of each

is a folder in the layout of Hugging Face diffusers. A class name is looked up in a table and never
imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from models.config import (
    AutoencoderKLConfig,
    Config,
    UNet2DConditionConfig,
    UNet2DConfig,
    UNetConfig,
)
from models.index import INDEX, ModelIndex, TextEncoder
from models.sampling import Prediction
from models.schedulers import SchedulerConfig
from models.single_file import SingleFile
from models.tensor_file import Entry
from models.text.config import CLIPTextConfig
from models.text.tokenizer import Tokenizer
from models.weight_files import FolderWeights, weight_source
from models.weight_names import NETWORK, TEXT, is_variant

CONFIG, SCHEDULE = "config.json", "scheduler/scheduler_config.json"
C = TypeVar("C", bound=Config, covariant=True)


class Weights(Protocol):
    """The weights of one network, in files. Each of these raises `CheckpointError`."""

    def read(
        self, expected: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Exactly the tensors that are expected, by name, on a device and of a type."""

    def check(self, expected: Mapping[str, Tensor]) -> None:
        """Whether `read` finds what is expected, by headers; no data is read."""

    def entries(self) -> Sequence[Entry]:
        """What headers say of each tensor; no data is read."""


@dataclass(frozen=True)
class Part(Generic[C]):
    """One network: its configuration, where that is from, and its weights."""

    source: Path
    config: C
    weights: Weights


@dataclass(frozen=True)
class TextPart(Part[CLIPTextConfig]):
    """A text encoder, whether it has a projection, and what reads its tokenizer."""

    projected: bool
    tokenizer: Callable[[], Tokenizer]


@dataclass(frozen=True)
class Parts:
    """What a model is made of."""

    index: ModelIndex
    index_path: Path  # what a message names
    vae: Part[AutoencoderKLConfig]
    unet: Part[UNetConfig]
    schedule_path: Path
    schedule: SchedulerConfig
    texts: tuple[TextPart, ...]
    notes: tuple[str, ...]

    @classmethod
    def open(cls, place: Path, prediction: Prediction | None = None) -> "Parts":
        """Read and check the configurations of a model folder, or of a `.safetensors` file.

        Args:
            place: the folder or file.
            prediction: what the UNet of a single file predicts; told from the file if absent.

        Raises:
            CheckpointError: anything missing, misshapen or unknown; the message names the file and
                the key.
        """
        return _of_file(SingleFile.open(place, prediction)) if place.is_file() else _of(place)


def _of(folder: Path) -> Parts:
    index = ModelIndex.read(folder)
    vae = folder / index.vae
    vae_config, vae_notes = AutoencoderKLConfig.read(vae / CONFIG)
    unet_config, unet_notes = _unet_kind(index).read(folder / "unet" / CONFIG)
    schedule, schedule_notes = SchedulerConfig.read(folder / SCHEDULE)
    texts = tuple(_text(folder, text) for text in index.texts)
    named = [folder / "unet", vae, *(folder / text.folder for text in index.texts)]
    weight_notes = [note for path in named for note in _weight_notes(path, index)]
    return Parts(
        index,
        folder / INDEX,
        Part(vae / CONFIG, vae_config, FolderWeights(vae)),
        Part(folder / "unet" / CONFIG, unet_config, FolderWeights(folder / "unet")),
        folder / SCHEDULE,
        schedule,
        texts,
        (*index.notes, *schedule_notes, *unet_notes, *vae_notes, *weight_notes),
    )


def _text(folder: Path, text: TextEncoder) -> TextPart:
    place = folder / text.folder
    config, _ = CLIPTextConfig.read(place / CONFIG)  # dozens of keys are for training or generation
    sizes = {"vocab_size": config.vocab_size, "positions": config.max_position_embeddings}
    tokenizer = partial(Tokenizer.read, folder / text.tokenizer, **sizes)
    return TextPart(place / CONFIG, config, FolderWeights(place, TEXT), text.projected, tokenizer)


def _of_file(file: SingleFile) -> Parts:
    """A file's configurations are ours, so nothing in them is worth a note."""
    index, parts = ModelIndex.parse(file.index, file.path), file.components
    vae_config, _ = AutoencoderKLConfig.parse(parts["vae"].config, file.path)
    unet_config, _ = _unet_kind(index).parse(parts["unet"].config, file.path)
    schedule, _ = SchedulerConfig.parse(file.scheduler, file.path)
    texts = []
    for text in index.texts:
        weights = parts[text.folder]
        config, _ = CLIPTextConfig.parse(weights.config, file.path)
        tokenizer = partial(Tokenizer.shipped, file.tokenizers[text.tokenizer]["pad_token"])
        texts.append(TextPart(file.path, config, weights, text.projected, tokenizer))
    return Parts(
        index,
        file.path,
        Part(file.path, vae_config, parts["vae"]),
        Part(file.path, unet_config, parts["unet"]),
        file.path,
        schedule,
        tuple(texts),
        file.notes,
    )


def _unet_kind(index: ModelIndex) -> type[UNet2DConfig | UNet2DConditionConfig]:
    return UNet2DConditionConfig if index.texts else UNet2DConfig


def _stem(folder: Path, index: ModelIndex) -> str:
    return TEXT if folder.name in [text.folder for text in index.texts] else NETWORK


def _weight_notes(folder: Path, index: ModelIndex) -> list[str]:
    source = weight_source(folder, _stem(folder, index))
    return (
        [f"{folder.name}/{source.name}: the only weights there"] if is_variant(source.name) else []
    )
