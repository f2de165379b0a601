"""Frozen configurations <-> the JSON of a checkpoint, key for key as diffusers writes it.

A key that means something we do not build, or a value we do not build, is an error that names the
file, the key and what is allowed: a model that opens is a model that is computed as trained.
"""

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints


class CheckpointError(ValueError):
    """A model folder cannot be opened; the message names the file and the key."""


class ConfigError(CheckpointError):
    """A configuration is wrong: an unknown key, a value of the wrong type or outside its range."""


@dataclass(frozen=True)
class Config:
    """One JSON configuration. Subclasses give the diffusers class they stand for."""

    class_name: ClassVar[str]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Self:
        """Build from JSON values; keys with a leading underscore are notes and are skipped.

        Raises:
            ConfigError: an unknown key, a wrong type or an unsupported value; `source` is named.
        """
        hints = get_type_hints(cls)
        known = {field.name for field in dataclasses.fields(cls)}
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        for key, value in given.items():
            if key not in known:
                raise ConfigError(
                    f"{source}: unknown key {key!r} for {cls.class_name}; "
                    f"known: {', '.join(sorted(known))}"
                )
            if not _fits(value, hints[key]):
                raise ConfigError(f"{source}: {key} is {value!r}; allowed: {_allowed(hints[key])}")
        frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        try:
            return cls(**frozen)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read one JSON file; see `from_dict` for the errors."""
        values = read_json(path)
        name = values.get("_class_name", cls.class_name)
        if name != cls.class_name:
            raise ConfigError(f"{path}: _class_name is {name!r}; allowed: {cls.class_name!r}")
        return cls.from_dict(values, str(path))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the class name diffusers looks for."""
        return {"_class_name": self.class_name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class AutoencoderKLConfig(Config):
    """diffusers `AutoencoderKL`. The encoder halves the image once for every block but the last."""

    class_name: ClassVar[str] = "AutoencoderKL"

    in_channels: int = 3
    out_channels: int = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...] = ("DownEncoderBlock2D",)
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...] = ("UpDecoderBlock2D",)
    block_out_channels: tuple[int, ...] = (64,)
    layers_per_block: int = 1
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: int = 4
    norm_num_groups: int = 32
    sample_size: int = 32
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    latents_mean: tuple[float, ...] | None = None
    latents_std: tuple[float, ...] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        _same_length(self, "down_block_types", "up_block_types", "block_out_channels")
        _divisible(self.block_out_channels, self.norm_num_groups, "norm_num_groups")
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(f"{name} has {len(values)} values; {self.latent_channels} needed")
        for name, value in (
            ("scaling_factor", self.scaling_factor),
            *(("latents_std", std) for std in self.latents_std or ()),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; allowed: above 0")

    @property
    def downscale(self) -> int:
        """Image pixels to one latent pixel, along a side."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class UNet2DConfig(Config):
    """diffusers `UNet2DModel`. `attention_head_dim` is channels per head; None is one head."""

    class_name: ClassVar[str] = "UNet2DModel"

    sample_size: int | tuple[int, ...] | None = None
    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[Literal["DownBlock2D", "AttnDownBlock2D"], ...] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: tuple[Literal["UpBlock2D", "AttnUpBlock2D"], ...] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1
    downsample_padding: Literal[0, 1] = 1
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    dropout: float = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    attention_head_dim: int | None = 8
    norm_num_groups: int = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: int | None = None
    num_train_timesteps: int | None = None

    def __post_init__(self) -> None:
        _same_length(self, "down_block_types", "up_block_types", "block_out_channels")
        widths = self.block_out_channels
        _divisible(widths, self.norm_num_groups, "norm_num_groups")
        last = widths[-1:] if self.mid_block_type and self.add_attention else ()
        attending = tuple(
            width
            for width, down, up in zip(
                widths, self.down_block_types, reversed(self.up_block_types), strict=True
            )
            if "Attn" in down or "Attn" in up
        )
        if self.attention_head_dim is not None:
            _divisible(attending + last, self.attention_head_dim, "attention_head_dim")
        if self.attn_norm_num_groups is not None:
            _divisible(last, self.attn_norm_num_groups, "attn_norm_num_groups")
        if self.sample_size is not None:
            size, step = self.sample_size, 2 ** (len(widths) - 1)
            sides = (size, size) if isinstance(size, int) else size
            if len(sides) != 2 or any(side < 1 or side % step for side in sides):
                raise ValueError(f"sample_size is {size}; allowed: multiples of {step}")


@dataclass(frozen=True)
class DDIMConfig(Config):
    """diffusers `DDIMScheduler`: the noise schedule and how samplers walk it."""

    class_name: ClassVar[str] = "DDIMScheduler"

    num_train_timesteps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: tuple[float, ...] | None = None
    clip_sample: bool = True
    clip_sample_range: float = 1.0
    set_alpha_to_one: bool = True
    steps_offset: int = 0
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: float = 0.995
    sample_max_value: float = 1.0
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps is {self.num_train_timesteps}; at least 1")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start is {self.beta_start}, beta_end {self.beta_end}; "
                "allowed: 0 < beta_start <= beta_end < 1"
            )
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(
                f"trained_betas has {len(self.trained_betas)} values; "
                f"num_train_timesteps is {self.num_train_timesteps}"
            )
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            # At alpha-bar 0 the noise says nothing of x0: 1 / sqrt(alpha-bar) is infinite.
            raise ValueError(
                "rescale_betas_zero_snr with prediction_type 'epsilon' has no finite first step; "
                "allowed with it: 'v_prediction', 'sample'"
            )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a `CheckpointError` that names it."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a JSON object is needed, found {type(values).__name__}")
    return values


def _same_length(config: Config, *names: str) -> None:
    lengths = {name: len(getattr(config, name)) for name in names}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise ValueError(f"the blocks do not match: {counts}")


def _divisible(channels: tuple[int, ...], by: int, name: str) -> None:
    if by < 1 or any(count < 1 or count % by for count in channels):
        widths = ", ".join(str(count) for count in sorted(set(channels)))
        raise ValueError(f"widths {widths} must be multiples of {name} {by}")


def _fits(value: Any, hint: Any) -> bool:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, args[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    if hint is None or hint is types.NoneType:
        return value is None
    return type(value) is hint


def _allowed(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(arg) for arg in args)
    if origin is Literal:
        return ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        return f"a list of {_allowed(args[0])}"
    return "null" if hint in (None, types.NoneType) else str(hint.__name__)
