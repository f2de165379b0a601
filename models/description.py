"""What a checkpoint is, by its configurations and the headers of its weights; none is loaded."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from models.bounds import Length, brief, check
from models.config import AutoencoderKLConfig, ConfigError, Side, UNet2DConfig
from models.files import CheckpointError, read_json
from models.hub_files import COMPONENTS, INDEX, Wanted, named
from models.index import ModelIndex
from models.memory import activations
from models.schedulers import SchedulerConfig
from models.weight_files import open_weights

_SCHEDULE = "scheduler/scheduler_config.json"
_BYTES = {"float32": 4, "float16": 2}  # of a number; bfloat16 is as float16
_FLOATS = ("BF16", "F16", "F32", "F64")  # others are positions, no parameters
_TEXT_WIDTHS = {768: "1.x", 1024: "2.x"}  # of what the UNet of a Stable Diffusion reads
_LONGEST_NAME = 80  # characters of a class
_INPUTS = {9: "inpainting", 8: "editing by instructions", 5: "depth", 7: "upscaling"}


@dataclass(frozen=True)
class Component:
    """A network: its class, the numbers in its weights, their bytes in files, and their types."""

    class_name: str
    parameters: int
    bytes: int
    stored_as: tuple[str, ...]


@dataclass(frozen=True)
class Memory:
    """Bytes that a model takes with all networks in one type; what drawing takes is for one image.

    `drawing` is None where nobody can say.
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
    draws: str  # what a request names, and how large images are
    prediction_type: str
    sampler: str  # of requests that name none
    spacing: str
    samplers: tuple[str, ...]
    width: int | None
    height: int | None
    components: Mapping[str, Component]
    memory: Mapping[str, Memory]  # by the type of the networks
    notes: tuple[str, ...] = ()

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


class _Told(NamedTuple):
    """What is told of a folder by the class of its UNet."""

    family: str
    draws: str
    latent_size: tuple[int, int]  # (height, width); zeros if nothing says it
    drawing: int | None = None
    notes: tuple[str, ...] = ()


def describe(path: Path) -> Description:
    """Describe a model folder.

    Raises:
        CheckpointError: it is none, or a file that describes it is wrong or missing; the message
            names the file.
    """
    if not (path / INDEX).exists():
        raise CheckpointError(f"{path}: not a model folder: {INDEX} is missing")
    index = read_json(path / INDEX)
    wanted = _wanted(path, index)
    unet = _class_name(index, "unet")
    tell = _BY_UNET.get(unet)
    if tell is None:
        allowed = ", ".join(_BY_UNET)
        raise ConfigError(f"{path / INDEX}: unet is {brief(unet)}; allowed: {allowed}")
    told = tell(path)
    schedule, notes = SchedulerConfig.read(path / _SCHEDULE)
    components = dict(_components(path, index, wanted))
    vae = "vae" if "vae" in components else "vqvae"
    config = path / vae / "config.json"
    vae_config = read_json(config)
    factor = 2 ** (len(_widths(config, vae_config)) - 1)
    height, width = (side * factor or None for side in told.latent_size)
    # AutoencoderKL's own default is to be in float32.
    fixed = components[vae].parameters if vae_config.get("force_upcast", True) else 0
    return Description(
        path=str(path),
        family=told.family,
        draws=told.draws,
        prediction_type=schedule.own.prediction_type,
        sampler=schedule.sampler,
        spacing=schedule.spacing,
        samplers=schedule.samplers,
        width=width,
        height=height,
        components=components,
        memory=_memory(components, fixed, told.drawing),
        notes=(*told.notes, *notes),
    )


def _memory(
    components: Mapping[str, Component], fixed: int, drawing: int | None
) -> dict[str, Memory]:
    """By the type of the networks; `fixed` parameters are in float32 whatever that is."""
    others = sum(component.parameters for component in components.values()) - fixed
    return {
        name: Memory(others * size + fixed * _BYTES["float32"], drawing)
        for name, size in _BYTES.items()
    }


def _by_class(folder: Path) -> _Told:
    """A model that draws classes, or whatever it was trained on."""
    index = ModelIndex.read(folder)
    unet, unet_notes = UNet2DConfig.read(folder / "unet/config.json")
    vae, vae_notes = AutoencoderKLConfig.read(folder / index.vae / "config.json")
    count = len(index.classes) or unet.num_class_embeds
    return _Told(
        "class-conditional" if count else "unconditional",
        f"one of {count} classes" if count else "no choice of class",
        unet.latent_size,
        activations(unet, vae, 1),
        (*unet_notes, *vae_notes),
    )


def _by_prompt(folder: Path) -> _Told:
    """A Stable Diffusion, by the configuration of its UNet alone."""
    path = folder / "unet/config.json"
    unet = read_json(path)
    size = unet.get("sample_size")
    _check(path, "sample_size", size, Side | Annotated[tuple[Side, ...], Length(2, 2)] | None)
    height, width = (size, size) if isinstance(size, int) else size or (0, 0)
    return _Told(_stable_diffusion(unet), "prompts", (height, width))


def _stable_diffusion(unet: Mapping[str, Any]) -> str:
    """The family of a UNet2DConditionModel, as far as its configuration tells."""
    width, inputs = unet.get("cross_attention_dim"), unet.get("in_channels")
    if unet.get("addition_embed_type") == "text_time":
        family = "Stable Diffusion XL"  # of 2,048 in all; its refiner reads one text of 1,280
        family += " refiner" if width == 1280 else ""
    elif isinstance(width, int) and width in _TEXT_WIDTHS:
        family = f"Stable Diffusion {_TEXT_WIDTHS[width]}"
    else:  # of another width, as in tests: the files of 1.x have convolutions about attention
        family = f"Stable Diffusion {'2.x' if unet.get('use_linear_projection') is True else '1.x'}"
        family += f", texts of width {brief(width)}"
    if unet.get("time_cond_proj_dim") is not None:
        family += ", distilled with its guidance"
    special = _INPUTS.get(inputs) if isinstance(inputs, int) else None
    return f"{family}, {special}" if special else family


_BY_UNET: Mapping[str, Callable[[Path], _Told]] = {
    "UNet2DModel": _by_class,
    "UNet2DConditionModel": _by_prompt,
}


def _wanted(folder: Path, index: Mapping[str, Any]) -> Wanted:
    """The files that a model is opened from; raises `CheckpointError`."""
    names = {
        f"{name}{path.name}"
        for name in ("", *(f"{component}/" for component in COMPONENTS))
        if (folder / name).is_dir()
        for path in (folder / name).iterdir()
    }
    try:
        wanted = Wanted.of(index, names)
        shards = [
            shard
            for name in wanted.indices
            for shard in named(name, read_json(folder / name).get("weight_map"), names)
        ]
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from error
    return dataclasses.replace(wanted, weights=(*wanted.weights, *shards))


def _components(
    folder: Path, index: Mapping[str, Any], wanted: Wanted
) -> Iterator[tuple[str, Component]]:
    """Every network, by name, in the order of the index's table."""
    for component in dict.fromkeys(name.partition("/")[0] for name in wanted.weights):
        files = [folder / name for name in wanted.weights if name.startswith(f"{component}/")]
        held = [tensor for file in files for tensor in _tensors(file)]
        yield (
            component,
            Component(
                _class_name(index, component),
                sum(count for dtype, count in held if dtype in _FLOATS),
                sum(file.stat().st_size for file in files),
                tuple(sorted({dtype for dtype, _ in held if dtype in _FLOATS})),
            ),
        )


def _tensors(path: Path) -> Iterator[tuple[str, int]]:
    """The type and the number of values of every tensor, by the file's header."""
    for entry in open_weights(path).entries.values():
        yield entry.dtype, math.prod(entry.shape)


def _class_name(index: Mapping[str, Any], component: str) -> str:
    """As the index has it; a terminal is to show it, so it is quoted if it is no class's name."""
    _, name = index[component]
    return name if name.isidentifier() and len(name) <= _LONGEST_NAME else brief(name)


def _widths(path: Path, config: Mapping[str, Any]) -> list[int]:
    widths = config.get("block_out_channels", [64])  # AutoencoderKL's default
    _check(path, "block_out_channels", widths, Annotated[tuple[int, ...], Length(1, 8)])
    return list(widths)


def _check(path: Path, key: str, value: object, hint: object) -> None:
    try:
        check(key, value, hint)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
