"""Frozen configurations <-> the JSON of a checkpoint, key for key as diffusers writes it.

A key that means something we do not build, or a value we do not build, is an error that names the
file, the key and what is allowed: a model that opens is a model that is computed as trained.
"""

import dataclasses
import difflib
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_type_hints

from models.bounds import Length, Range, brief, check
from models.files import CheckpointError, read_json
from models.foreign import check_class, sift

# Bounds are wide of every model we know of (SDXL: widths to 1,280, latents of 128 x 128;
# ImageNet-21k: 21,843 classes), and narrow enough that no file costs much before it is refused.
Channels = Literal[1, 3, 4]  # of images: grey, RGB, RGBA
LatentChannels = Annotated[int, Range(1, 64)]
Width = Annotated[int, Range(1, 4096)]
Side = Annotated[int, Range(1, 256)]
Pixels = Annotated[int, Range(1, 8192)]
Layers = Annotated[int, Range(1, 16)]
Timesteps = Annotated[int, Range(1, 10_000)]
Factor = Annotated[float, Range(1e-6, 1e6, above=True)]
Shift = Annotated[float, Range(-1e6, 1e6)]
Beta = Annotated[float, Range(0, 1, above=True)]
_BLOCKS = Length(1, 8)
Depth = Annotated[int, Range(0, 32)]  # of transformers; SDXL has 10
_MOST_TRANSFORMERS = 512  # SDXL has 70
SIZE_NUMBERS = 6  # of SDXL: original size, corner of the crop, size asked for
MAX_POSITIONS = 128 * 128  # in self-attention; SDXL has 64 * 64, and the cost is quadratic
_CLOSE, _SHOWN = 3, 8  # similar keys in a message, and keys in total


class ConfigError(CheckpointError):
    """A configuration is wrong: an unknown key, a value of the wrong type or outside its range."""


@dataclass(frozen=True)
class Config:
    """One JSON configuration. Subclasses give the diffusers class they stand for."""

    class_name: ClassVar[str]

    def __post_init__(self) -> None:
        """Check every value against its annotation; raises `ValueError`."""
        hints = get_type_hints(type(self), include_extras=True)
        for field in dataclasses.fields(self):
            check(field.name, getattr(self, field.name), hints[field.name])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> Self:
        """Build from JSON values; keys with a leading underscore are notes and are skipped.

        Raises:
            ConfigError: an unknown key, a wrong type or an unsupported value; `source` is named.
        """
        known = sorted(field.name for field in dataclasses.fields(cls))
        given = {key: value for key, value in values.items() if not key.startswith("_")}
        for key in given:
            if key not in known:
                raise ConfigError(
                    f"{source}: unknown key {brief(key)} for {cls.class_name}; {_known(key, known)}"
                )
        frozen = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        try:
            return cls(**frozen)
        except ValueError as error:
            raise ConfigError(f"{source}: {error}") from error

    @classmethod
    def read(cls, path: Path) -> tuple[Self, tuple[str, ...]]:
        """Read one JSON file: the configuration, and notes on what has no effect here.

        Raises:
            ConfigError: as `from_dict`; or the configuration of a class that is read as no other.
        """
        return cls.parse(read_json(path), path)

    @classmethod
    def parse(cls, values: Mapping[str, Any], path: Path) -> tuple[Self, tuple[str, ...]]:
        """The same of what was read from a file already."""
        found = values.get("_class_name", cls.class_name)
        try:
            check_class("_class_name", found, cls.class_name)
            own, passed = sift(cls.class_name, values)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
        notes = [] if found == cls.class_name else [f"{found} is read as {cls.class_name}"]
        if passed:
            notes.append(f"without effect here: {', '.join(passed)}")
        where = f"{path.parent.name}/{path.name}"
        return cls.from_dict(own, str(path)), tuple(f"{where}: {note}" for note in notes)

    def to_dict(self) -> dict[str, Any]:
        """JSON values, with the class name diffusers looks for."""
        return {"_class_name": self.class_name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class AutoencoderKLConfig(Config):
    """diffusers `AutoencoderKL`. The encoder halves the image once for every block but the last."""

    class_name: ClassVar[str] = "AutoencoderKL"

    in_channels: Channels = 3
    out_channels: Channels = 3
    down_block_types: Annotated[tuple[Literal["DownEncoderBlock2D"], ...], _BLOCKS] = (
        "DownEncoderBlock2D",
    )
    up_block_types: Annotated[tuple[Literal["UpDecoderBlock2D"], ...], _BLOCKS] = (
        "UpDecoderBlock2D",
    )
    block_out_channels: Annotated[tuple[Width, ...], _BLOCKS] = (64,)
    layers_per_block: Layers = 1
    act_fn: Literal["silu", "swish"] = "silu"
    latent_channels: LatentChannels = 4
    norm_num_groups: Width = 32
    sample_size: Pixels | Annotated[tuple[Pixels, ...], Length(2, 2)] = 32
    scaling_factor: Factor = 0.18215
    shift_factor: Shift | None = None
    latents_mean: Annotated[tuple[Shift, ...], Length(1, 64)] | None = None
    latents_std: Annotated[tuple[Factor, ...], Length(1, 64)] | None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _same_length(self, "down_block_types", "up_block_types", "block_out_channels")
        _divisible(self.block_out_channels, self.norm_num_groups, "norm_num_groups")
        if self.out_channels != self.in_channels:
            raise ValueError(
                f"out_channels is {self.out_channels}, in_channels {self.in_channels}; "
                "allowed: the same number"
            )
        for name in ("latents_mean", "latents_std"):
            values = getattr(self, name)
            if values is not None and len(values) != self.latent_channels:
                raise ValueError(f"{name} has {len(values)} values; {self.latent_channels} needed")

    @property
    def downscale(self) -> int:
        """Image pixels to one latent pixel, along a side."""
        return int(2 ** (len(self.block_out_channels) - 1))


@dataclass(frozen=True)
class UNetConfig(Config):
    """What both UNets of diffusers have. A level halves height and width of the one before."""

    down_block_types: tuple[str, ...]
    mid_block_type: str | None
    up_block_types: tuple[str, ...]
    block_out_channels: tuple[int, ...]
    in_channels: int
    out_channels: int
    sample_size: Side | Annotated[tuple[Side, ...], Length(2, 2)] | None = None
    center_input_sample: bool = False
    time_embedding_type: Literal["positional"] = "positional"
    time_embedding_dim: Annotated[int, Range(1, 16_384)] | None = None
    freq_shift: Annotated[int, Range(0, 1)] = 0
    flip_sin_to_cos: bool = True
    layers_per_block: Layers = 2
    mid_block_scale_factor: Annotated[float, Range(0.001, 1000)] = 1
    downsample_padding: Literal[0, 1] = 1
    dropout: Annotated[float, Range(0, 1)] = 0.0
    act_fn: Literal["silu", "swish"] = "silu"
    norm_num_groups: Width = 32
    norm_eps: Annotated[float, Range(0, 0.1, above=True)] = 1e-5
    resnet_time_scale_shift: Literal["default", "scale_shift"] = "default"

    def __post_init__(self) -> None:
        super().__post_init__()
        _same_length(self, "down_block_types", "up_block_types", "block_out_channels")
        widths = self.block_out_channels
        _divisible(widths, self.norm_num_groups, "norm_num_groups")
        if self.freq_shift and widths[0] < 4:  # the frequencies are divided by half the width - 1
            raise ValueError(f"freq_shift is 1; block_out_channels begins with {widths[0]}, not 4")
        step = 2 ** (len(widths) - 1)
        if any(side % step for side in self.latent_size):
            raise ValueError(f"sample_size is {self.sample_size}; allowed: multiples of {step}")
        height, width = self.latent_size
        for level in self.attending[:1]:
            check_positions(self.sample_size, height * width // 4**level)

    @property
    def attending(self) -> tuple[int, ...]:
        """Levels at which positions attend to each other; 0 has the latent's own size."""
        pairs = zip(self.down_block_types, reversed(self.up_block_types), strict=True)
        levels = [level for level, (down, up) in enumerate(pairs) if "Attn" in down + up]
        last = len(self.block_out_channels) - 1
        return tuple(sorted({*levels, *([last] if self.middle_attends else [])}))

    @property
    def middle_attends(self) -> bool:
        """Whether the block in the middle has attention."""
        return self.mid_block_type is not None

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of a latent; zeros where the configuration gives none."""
        size = self.sample_size or 0
        return (size, size) if isinstance(size, int) else (size[0], size[1])


@dataclass(frozen=True)
class UNet2DConfig(UNetConfig):
    """diffusers `UNet2DModel`. `attention_head_dim` is channels per head; None is one head."""

    class_name: ClassVar[str] = "UNet2DModel"

    in_channels: LatentChannels = 3
    out_channels: LatentChannels = 3
    down_block_types: Annotated[tuple[Literal["DownBlock2D", "AttnDownBlock2D"], ...], _BLOCKS] = (
        "DownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
        "AttnDownBlock2D",
    )
    mid_block_type: Literal["UNetMidBlock2D"] | None = "UNetMidBlock2D"
    up_block_types: Annotated[tuple[Literal["UpBlock2D", "AttnUpBlock2D"], ...], _BLOCKS] = (
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "AttnUpBlock2D",
        "UpBlock2D",
    )
    block_out_channels: Annotated[tuple[Width, ...], _BLOCKS] = (224, 448, 672, 896)
    downsample_type: Literal["conv"] = "conv"
    upsample_type: Literal["conv"] = "conv"
    attention_head_dim: Width | None = 8
    attn_norm_num_groups: Width | None = None
    add_attention: bool = True
    class_embed_type: None = None
    num_class_embeds: Annotated[int, Range(1, 65_536)] | None = None
    num_train_timesteps: Timesteps | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        widths = self.block_out_channels
        attending = tuple(widths[level] for level in self.attending)
        if self.attention_head_dim is not None:
            _divisible(attending, self.attention_head_dim, "attention_head_dim")
        if self.attn_norm_num_groups is not None and self.middle_attends:
            _divisible(widths[-1:], self.attn_norm_num_groups, "attn_norm_num_groups")

    @property
    def middle_attends(self) -> bool:
        return super().middle_attends and self.add_attention


@dataclass(frozen=True)
class UNet2DConditionConfig(UNetConfig):
    """diffusers `UNet2DConditionModel`, as Stable Diffusion has it.

    `attention_head_dim` is the number of heads: the key was named wrongly, and kept.
    """

    class_name: ClassVar[str] = "UNet2DConditionModel"

    in_channels: LatentChannels = 4
    out_channels: LatentChannels = 4
    down_block_types: Annotated[
        tuple[Literal["DownBlock2D", "CrossAttnDownBlock2D"], ...], _BLOCKS
    ] = ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D")
    mid_block_type: Literal["UNetMidBlock2DCrossAttn"] | None = "UNetMidBlock2DCrossAttn"
    up_block_types: Annotated[tuple[Literal["UpBlock2D", "CrossAttnUpBlock2D"], ...], _BLOCKS] = (
        "UpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
        "CrossAttnUpBlock2D",
    )
    block_out_channels: Annotated[tuple[Width, ...], _BLOCKS] = (320, 640, 1280, 1280)
    only_cross_attention: Literal[False] = False
    cross_attention_dim: Width = 1280
    transformer_layers_per_block: Depth | Annotated[tuple[Depth, ...], _BLOCKS] = 1
    reverse_transformer_layers_per_block: None = None
    encoder_hid_dim: None = None
    encoder_hid_dim_type: None = None
    attention_head_dim: Width | Annotated[tuple[Width, ...], _BLOCKS] = 8
    num_attention_heads: None = None
    dual_cross_attention: Literal[False] = False
    use_linear_projection: bool = False
    class_embed_type: None = None
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Width | None = None
    num_class_embeds: None = None
    upcast_attention: bool | None = False  # attention has float32 scores either way
    resnet_skip_time_act: Literal[False] = False
    resnet_out_scale_factor: Annotated[float, Range(1, 1)] = 1.0
    time_embedding_act_fn: None = None
    timestep_post_act: None = None
    time_cond_proj_dim: Annotated[int, Range(4, 4096)] | None = None
    conv_in_kernel: Literal[3] = 3
    conv_out_kernel: Literal[3] = 3
    projection_class_embeddings_input_dim: Annotated[int, Range(1, 65_536)] | None = None
    attention_type: Literal["default"] = "default"
    class_embeddings_concat: Literal[False] = False
    mid_block_only_cross_attention: Literal[False] | None = None
    cross_attention_norm: None = None
    addition_embed_type_num_heads: Width = 64  # of other kinds of `addition_embed_type`

    def __post_init__(self) -> None:
        super().__post_init__()
        levels = range(len(self.block_out_channels))
        for name in ("attention_head_dim", "transformer_layers_per_block"):
            if isinstance(getattr(self, name), tuple):
                _same_length(self, name, "block_out_channels")
        for level in self.attending:
            width = self.block_out_channels[level]
            _divisible((width,), self.heads[level], "attention_head_dim")
        ups = tuple(reversed(self.up_block_types))
        stacks = [  # of transformer blocks, by level
            self.layers_per_block * ("Attn" in self.down_block_types[level])
            + (self.layers_per_block + 1) * ("Attn" in ups[level])
            + (self.middle_attends and level == levels[-1])
            for level in levels
        ]
        count = sum(map(operator.mul, stacks, self.depths))
        if count > _MOST_TRANSFORMERS:
            raise ValueError(
                f"transformer_layers_per_block and layers_per_block make {count} transformer "
                f"blocks; allowed: up to {_MOST_TRANSFORMERS}"
            )
        if self.addition_embed_type is not None and self.pooled_dim < 1:
            raise ValueError(
                f"addition_time_embed_dim is {self.addition_time_embed_dim}, "
                "projection_class_embeddings_input_dim "
                f"{self.projection_class_embeddings_input_dim}; allowed with addition_embed_type "
                f"'text_time': numbers, the second more than {SIZE_NUMBERS} times the first"
            )

    @property
    def heads(self) -> tuple[int, ...]:
        """Attention heads by level."""
        return self._by_level(self.attention_head_dim)

    @property
    def depths(self) -> tuple[int, ...]:
        """Transformer blocks after each ResNet, by level; the last level's in the middle too."""
        return self._by_level(self.transformer_layers_per_block)

    @property
    def pooled_dim(self) -> int:
        """Width of the pooled text that is an added condition; 0 where there is none."""
        if self.addition_embed_type is None:
            return 0
        sizes = SIZE_NUMBERS * (self.addition_time_embed_dim or 0)
        return (self.projection_class_embeddings_input_dim or 0) - sizes if sizes else 0

    @property
    def distilled(self) -> bool:
        """Whether the network reads a guidance scale, and so is evaluated once and not twice."""
        return self.time_cond_proj_dim is not None

    def _by_level(self, value: int | tuple[int, ...]) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * len(self.block_out_channels)


@dataclass(frozen=True)
class ScheduleConfig(Config):
    """What every scheduler of diffusers has: the noise schedule, and where samplers look at it."""

    num_train_timesteps: Timesteps = 1000
    beta_start: Beta = 0.0001
    beta_end: Beta = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: Annotated[tuple[Beta, ...], Length(1, 10_000)] | None = None
    steps_offset: Annotated[int, Range(0, 10_000)] = 0
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    timestep_spacing: Literal["leading", "trailing", "linspace"] = "linspace"
    rescale_betas_zero_snr: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta_start <= self.beta_end < 1:
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
            # At alpha-bar 0 the noise says nothing about x0: 1 / sqrt(alpha-bar) is infinite.
            raise ValueError(
                "rescale_betas_zero_snr with prediction_type 'epsilon' has no finite first step; "
                "allowed with it: 'v_prediction', 'sample'"
            )

    @property
    def clip(self) -> float:
        """The bound on |x0|."""
        return math.inf

    @property
    def ends_clean(self) -> bool:
        """Whether the last step ends without noise, and not at timestep 0."""
        return True


@dataclass(frozen=True)
class ClippedConfig(ScheduleConfig):
    """Those that may bound x0."""

    clip_sample: bool = False
    clip_sample_range: Factor = 1.0

    @property
    def clip(self) -> float:
        return self.clip_sample_range if self.clip_sample else math.inf


@dataclass(frozen=True)
class DDIMConfig(ClippedConfig):
    """diffusers `DDIMScheduler`: what is trained with, and saved."""

    class_name: ClassVar[str] = "DDIMScheduler"

    timestep_spacing: Literal["leading", "trailing", "linspace"] = "leading"
    clip_sample: bool = True
    set_alpha_to_one: bool = True
    thresholding: Literal[False] = False
    dynamic_thresholding_ratio: Annotated[float, Range(0, 1)] = 0.995
    sample_max_value: Factor = 1.0

    @property
    def ends_clean(self) -> bool:
        return self.set_alpha_to_one


def check_positions(sample_size: object, count: int) -> None:
    """Raise `ValueError` if attention compares too many positions of a latent."""
    if count > MAX_POSITIONS:
        raise ValueError(
            f"sample_size is {sample_size}: attention would compare {count} positions with each "
            f"other; allowed: up to {MAX_POSITIONS}"
        )


def _known(key: str, names: list[str]) -> str:
    """The known keys, those similar to the unknown one first."""
    close = difflib.get_close_matches(key[:40], names, _CLOSE)
    listed = [*close, *(name for name in names if name not in close)]
    return f"known: {', '.join(listed[:_SHOWN])}{', ...' if len(listed) > _SHOWN else ''}"


def _same_length(config: Config, *names: str) -> None:
    lengths = {name: len(getattr(config, name)) for name in names}
    if len(set(lengths.values())) != 1:
        counts = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise ValueError(f"the blocks do not match: {counts}")


def _divisible(channels: tuple[int, ...], by: int, name: str) -> None:
    if any(count % by for count in channels):
        widths = ", ".join(str(count) for count in sorted(set(channels)))
        raise ValueError(f"widths {widths} must be multiples of {name} {by}")
