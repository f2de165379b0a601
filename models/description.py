"""What a checkpoint is, by its configurations and the headers of its weights; none is loaded."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.checkpoint import check_networks, weight_bytes
from models.config import Config, UNet2DConditionConfig, UNet2DConfig, UNetConfig
from models.files import CheckpointError
from models.fit import Fit
from models.memory import activations
from models.parts import Part, Parts
from models.sampling import Prediction
from models.sizes import Sizes
from models.tensor_file import DTYPES

_TYPES = (torch.float32, torch.bfloat16, torch.float16)  # that networks can be in
_TEXT_WIDTHS = {768: "1.x", 1024: "2.x"}  # of what the UNet of a Stable Diffusion reads
_TASKS = {9: "inpainting", 8: "editing by instruction"}  # by input channels


@dataclass(frozen=True)
class Component:
    """A network: its class, the numbers in its weights, their bytes as stored, and their types."""

    class_name: str
    parameters: int
    bytes: int
    stored_as: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes with all networks in one type; what drawing takes is for one image.

    That is of the model's own size; `drawing` is None where it has none.
    """

    weights: int
    drawing: int | None

    @property
    def total(self) -> int:
        """The weights, and drawing as far as it is known."""
        return self.weights + (self.drawing or 0)


@dataclass(frozen=True)
class Description:
    """What a checkpoint is."""

    path: str
    family: str
    draws: str  # what a request names
    prediction_type: str
    sampler: str  # of requests that name none
    spacing: str
    samplers: tuple[str, ...]
    guidance_scale: float  # of requests that name none
    width: int | None  # of images of its own size, in pixels
    height: int | None
    sizes: Sizes | None  # that may be asked for; None if it cannot be drawn by
    components: Mapping[str, Component]
    memory: Mapping[str, Memory]  # by the type of the networks
    notes: tuple[str, ...]  # what is said when it is opened
    refusal: str | None  # why it cannot be drawn by; None if it can

    @property
    def parameters(self) -> int:
        """Of all components."""
        return sum(component.parameters for component in self.components.values())

    @property
    def bytes(self) -> int:
        """Of all weights, as they are stored."""
        return sum(component.bytes for component in self.components.values())

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        values = {**dataclasses.asdict(self), "parameters": self.parameters, "bytes": self.bytes}
        for name, memory in self.memory.items():
            values["memory"][name]["total"] = memory.total
        return values


def describe(place: Path, prediction: Prediction | None = None) -> Description:
    """Describe a model folder, or a `.safetensors` file.

    Args:
        place: the folder or file.
        prediction: what the UNet of a file predicts, where its user knows better than the file.

    Raises:
        CheckpointError: it is none, or a file of it is wrong or missing; the message names it.
            Parts that are right and do not fit each other, or their weights, are described, with a
            `refusal`.
    """
    parts = Parts.open(place, prediction)
    fit, refusal = None, None
    try:
        fit = Fit.of(parts)
        check_networks(parts)
    except CheckpointError as error:
        fit, refusal = None, str(error)
    unet, vae, schedule = parts.unet.config, parts.vae.config, parts.schedule
    height, width = (side * vae.downscale or None for side in unet.latent_size)
    components = dict(_components(parts))
    return Description(
        path=str(place),
        family=_family(unet),
        draws=_draws(parts),
        prediction_type=schedule.own.prediction_type,
        sampler=schedule.sampler,
        spacing=schedule.spacing,
        samplers=schedule.samplers,
        guidance_scale=parts.index.guidance_scale,
        width=width,
        height=height,
        sizes=fit.sizes if fit else None,
        components=components,
        memory=_memory(parts, components),
        notes=fit.notes if fit else parts.notes,
        refusal=refusal,
    )


def _memory(parts: Parts, components: Mapping[str, Component]) -> dict[str, Memory]:
    """By the type of the networks."""
    unet, vae = parts.unet.config, parts.vae.config
    drawing = activations(unet, vae, 1) if unet.sample_size else None
    decoder = components[parts.index.vae].parameters
    others = sum(component.parameters for component in components.values()) - decoder
    return {
        str(dtype).removeprefix("torch."): Memory(
            weight_bytes(vae, decoder, others, dtype), drawing
        )
        for dtype in _TYPES
    }


def _draws(parts: Parts) -> str:
    """What a request names."""
    if parts.texts:
        tokens = min(text.tokenizer().length for text in parts.texts)
        return f"prompts of {tokens} tokens"
    unet = parts.unet.config
    rows = unet.num_class_embeds if isinstance(unet, UNet2DConfig) else None
    count = len(parts.index.classes) or rows
    return f"one of {count} classes" if count else "no choice of class"


def _family(unet: UNetConfig) -> str:
    """The family of a model, as far as the configuration of its UNet tells."""
    if isinstance(unet, UNet2DConfig):
        return "class-conditional" if unet.num_class_embeds else "unconditional"
    assert isinstance(unet, UNet2DConditionConfig)
    if unet.addition_embed_type == "text_time":
        family = "Stable Diffusion XL"
    elif unet.cross_attention_dim in _TEXT_WIDTHS:
        family = f"Stable Diffusion {_TEXT_WIDTHS[unet.cross_attention_dim]}"
    else:  # of another width, as in tests: the files of 1.x have convolutions about attention
        family = f"Stable Diffusion {'2.x' if unet.use_linear_projection else '1.x'}"
        family += f", texts of width {unet.cross_attention_dim}"
    if unet.time_cond_proj_dim is not None:
        family += ", distilled with its guidance"
    task = _TASKS.get(unet.in_channels)
    return f"{family}, {task}" if task else family


def _components(parts: Parts) -> Iterator[tuple[str, Component]]:
    """Every network, by the name of its folder."""
    yield "unet", _component(parts.unet, parts.unet.config.class_name)
    yield parts.index.vae, _component(parts.vae, parts.vae.config.class_name)
    for named, text in zip(parts.index.texts, parts.texts, strict=True):
        projection = "WithProjection" if text.projected else ""
        yield named.folder, _component(text, f"{text.config.class_name}{projection}")


def _component(part: Part[Config], class_name: str) -> Component:
    """One network; whole numbers in its files are positions, and no parameters."""
    held = [entry for entry in part.weights.entries() if entry.dtype in DTYPES]
    return Component(
        class_name,
        parameters=sum(math.prod(entry.shape) for entry in held),
        bytes=sum(entry.size for entry in held),
        stored_as=tuple(sorted({entry.dtype for entry in held})),
    )
