"""Recipes: what to train, on what, and how, as a small TOML file with overrides.

[data]                what to read
[vae]  [unet]  [scheduler]    the networks and the schedule, by diffusers' keys
[train.vae]  [train.diffusion]    optimisation
"""

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from models.conditioning import MAX_GUIDANCE_SCALE
from models.config import AutoencoderKLConfig, Config, ConfigError, DDIMConfig, UNet2DConfig

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class DataRecipe(Config):
    """`source` is `mnist`, `fashion-mnist`, or a folder of images with one sub-folder a class."""

    class_name: ClassVar[str] = "[data]"

    source: str = "mnist"
    size: int = 32
    channels: Literal[1, 3] = 1


@dataclass(frozen=True)
class Optimisation(Config):
    """What both trainings share. Sizes count images, so that runs compare across batch sizes."""

    class_name: ClassVar[str] = "[train]"

    images: int = 1_000_000
    batch_size: int = 128
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.01  # of learning_rate, at the end of the cosine
    warmup_steps: int = 200
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_length: float = 0.1  # standard deviation of the averaging profile, as a share of the run
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1 or self.images < self.batch_size:
            raise ValueError(f"images is {self.images}, batch_size {self.batch_size}")
        if not 0.0 < self.ema_length <= 0.28:
            raise ValueError(f"ema_length is {self.ema_length}; allowed: above 0, up to 0.28")
        if min(self.log_every, self.checkpoint_every) < 1:
            raise ValueError("log_every and checkpoint_every must be at least 1")
        for name in ("learning_rate", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: above 0")
        for name in ("weight_decay", "final_learning_rate", "warmup_steps", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 0 or more")

    @property
    def steps(self) -> int:
        """Optimizer steps in the whole run."""
        return self.images // self.batch_size


@dataclass(frozen=True)
class VAETraining(Optimisation):
    """Loss: L1 summed over pixels + `kl_weight` * KL in nats, averaged over images."""

    class_name: ClassVar[str] = "[train.vae]"

    kl_weight: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.kl_weight < math.inf:
            raise ValueError(f"kl_weight is {self.kl_weight}; allowed: 0 or more")


@dataclass(frozen=True)
class DiffusionTraining(Optimisation):
    """Loss: mean squared error of what the scheduler's prediction type names."""

    class_name: ClassVar[str] = "[train.diffusion]"

    label_dropout: float = 0.1
    guidance_scale: float = 1.0  # the default the model is published with

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout is {self.label_dropout}; allowed: a share, 0 to 1")
        if not 0 <= self.guidance_scale <= MAX_GUIDANCE_SCALE:
            raise ValueError(
                f"guidance_scale is {self.guidance_scale}; "
                f"allowed: 0 or more, up to {MAX_GUIDANCE_SCALE}"
            )


@dataclass(frozen=True)
class Recipe:
    """A whole recipe; immutable, and equal to another exactly if every value is."""

    data: DataRecipe
    vae: AutoencoderKLConfig
    unet: UNet2DConfig
    scheduler: DDIMConfig
    train_vae: VAETraining
    train_diffusion: DiffusionTraining

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> "Recipe":
        """Read a TOML file, or a recipe that ships by its name, with `a.b=value` overrides.

        Raises:
            ConfigError: not there, not TOML, an unknown key or a value out of range.
        """
        shipped = RECIPES / f"{path}.toml"
        file = shipped if shipped.is_file() else Path(path)
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except OSError as error:
            names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.toml")))
            raise ConfigError(
                f"{path}: no such recipe; shipped: {names}; or a .toml file"
            ) from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{file}: not TOML: {error}") from error
        for override in overrides:
            _override(values, override)
        return cls.from_dict(values, str(file))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str) -> "Recipe":
        """Build from nested tables; sizes that follow from others are filled in."""
        _check_tables(values, ("data", "vae", "unet", "scheduler", "train"), source)
        train = values.get("train", {})
        _check_tables(train, ("vae", "diffusion"), source, "train.")
        data = DataRecipe.from_dict(values.get("data", {}), f"{source} [data]")
        vae = AutoencoderKLConfig.from_dict(
            {
                "in_channels": data.channels,
                "out_channels": data.channels,
                "sample_size": data.size,
                "scaling_factor": 1.0,
                "force_upcast": False,
                **_blocks(values.get("vae", {}), "DownEncoderBlock2D", "UpDecoderBlock2D"),
            },
            f"{source} [vae]",
        )
        _check_vae(vae, data, source)
        unet = UNet2DConfig.from_dict(
            {
                "in_channels": vae.latent_channels,
                "out_channels": vae.latent_channels,
                "sample_size": data.size // vae.downscale,
                **_blocks(values.get("unet", {}), "AttnDownBlock2D", "AttnUpBlock2D"),
            },
            f"{source} [unet]",
        )
        return cls(
            data,
            vae,
            unet,
            DDIMConfig.from_dict(values.get("scheduler", {}), f"{source} [scheduler]"),
            VAETraining.from_dict(train.get("vae", {}), f"{source} [train.vae]"),
            DiffusionTraining.from_dict(train.get("diffusion", {}), f"{source} [train.diffusion]"),
        )

    def with_classes(self, count: int) -> "Recipe":
        """The same recipe for `count` classes: the UNet embeds them and the null class."""
        return replace(self, unet=replace(self.unet, num_class_embeds=count + 1 if count else None))


def _check_tables(
    values: Mapping[str, Any], known: Sequence[str], source: str, prefix: str = ""
) -> None:
    for name, table in values.items():
        if name not in known:
            raise ConfigError(f"{source}: unknown table {prefix + name!r}")
        if not isinstance(table, Mapping):
            raise ConfigError(f"{source}: {prefix}{name} is {table!r}; a table is needed")


def _check_vae(vae: AutoencoderKLConfig, data: DataRecipe, source: str) -> None:
    """What training asks of an autoencoder beyond what makes it a network."""
    if data.size < 1 or data.size % vae.downscale:
        raise ConfigError(f"{source}: size {data.size} is no multiple of {vae.downscale}")
    if not (vae.use_quant_conv and vae.use_post_quant_conv):
        raise ConfigError(
            f"{source} [vae]: use_quant_conv and use_post_quant_conv must be true: "
            "the scale of the latents is folded into them"
        )
    if vae.shift_factor or vae.latents_mean or vae.latents_std or vae.scaling_factor != 1.0:
        raise ConfigError(f"{source} [vae]: the scale of the latents is measured, not given")


def _blocks(network: Mapping[str, Any], down: str, up: str) -> dict[str, Any]:
    """Fill in block types, one for every width."""
    widths = network.get("block_out_channels")
    if not isinstance(widths, list):
        return dict(network)
    count = len(widths)
    return {"down_block_types": [down] * count, "up_block_types": [up] * count, **network}


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, name = key.strip().split(".")
    if not equals or not tables:
        raise ConfigError(f"override {override!r}: write table.key=value, as train.vae.seed=1")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    table = values
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override {override!r}: {part!r} is not a table")
    table[name] = value
