"""Recipes: what to train, on what, and how, as a small TOML file with overrides.

[data]                what to read
[vae]  [unet]  [scheduler]    the networks and the schedule, by diffusers' keys
[train.vae]  [train.diffusion]    optimisation

Tables that a file leaves out are chosen for its images, see `defaults`.
"""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from models.config import AutoencoderKLConfig, ConfigError, DDIMConfig, UNet2DConfig
from models.training import defaults
from models.training.options import DataRecipe as DataRecipe
from models.training.options import DiffusionTraining as DiffusionTraining
from models.training.options import Optimisation as Optimisation
from models.training.options import VAETraining as VAETraining

RECIPES = Path(__file__).parent / "recipes"
_TABLES = ("data", "vae", "unet", "scheduler", "train")
_STAGES = ("vae", "diffusion")  # tables of [train]


@dataclass(frozen=True)
class Recipe:
    """A whole recipe; immutable, and equal to another exactly if every value is."""

    data: DataRecipe
    vae: AutoencoderKLConfig
    unet: UNet2DConfig
    scheduler: DDIMConfig
    train_vae: VAETraining
    train_diffusion: DiffusionTraining
    draft: "Draft | None" = field(default=None, compare=False, repr=False)

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
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not TOML: {error}") from error
        return Draft.of(values, str(file), overrides).complete()

    def for_images(self, count: int, vae: AutoencoderKLConfig | None = None) -> "Recipe":
        """The same recipe with what its file leaves out chosen for `count` images.

        Args:
            count: how many there are to train on.
            vae: the autoencoder that was trained, where the recipe leaves it out.
        """
        return self.draft.complete(count, vae) if self.draft else self

    def with_classes(self, count: int) -> "Recipe":
        """The same recipe for `count` classes: the UNet embeds them and the null class."""
        return replace(self, unet=replace(self.unet, num_class_embeds=count + 1 if count else None))


@dataclass(frozen=True)
class Draft:
    """A recipe as it is written: the tables of its file with overrides, and where it is from.

    An override of a table that the file leaves out changes what is chosen for it.
    """

    tables: Mapping[str, Mapping[str, Any]]  # by name, as `train.vae`
    left_out: frozenset[str]
    source: str

    @classmethod
    def of(cls, values: dict[str, Any], source: str, overrides: Sequence[str] = ()) -> "Draft":
        """Check the names of all tables; raises `ConfigError`."""
        given = set(_tables(values, source))
        for override in overrides:
            _override(values, override)
        tables = _tables(values, source)
        names = {*_TABLES[1:-1], *(f"train.{stage}" for stage in _STAGES)}
        return cls(tables, frozenset(names - given), source)

    def complete(self, images: int = 0, trained: AutoencoderKLConfig | None = None) -> Recipe:
        """Choose what is left out, fill in sizes that follow from others, check every value.

        Raises:
            ConfigError: an unknown key or a value out of range.
        """
        data = DataRecipe.from_dict(self.tables.get("data", {}), f"{self.source} [data]")
        try:
            vae = self._vae(data, images, trained)
            unet = self._unet(data, vae, images)
            scheduler = self._table("scheduler", defaults.choose_scheduler)
            side = data.size // vae.downscale
            train_vae = self._table(
                "train.vae", lambda: defaults.choose_vae_training(data.size, images)
            )
            train_diffusion = self._table(
                "train.diffusion",
                lambda: defaults.choose_diffusion_training(side, data.channels, images),
            )
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"{self.source}: {error}") from error
        return Recipe(
            data,
            vae,
            unet,
            DDIMConfig.from_dict(scheduler, f"{self.source} [scheduler]"),
            VAETraining.from_dict(train_vae, f"{self.source} [train.vae]"),
            DiffusionTraining.from_dict(train_diffusion, f"{self.source} [train.diffusion]"),
            self,
        )

    def _table(self, name: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A table as it is given, over what is chosen where the file leaves it out."""
        chosen = choose() if name in self.left_out else {}
        return {**chosen, **self.tables.get(name, {})}

    def _vae(
        self, data: DataRecipe, images: int, trained: AutoencoderKLConfig | None
    ) -> AutoencoderKLConfig:
        if trained is not None and "vae" in self.left_out:
            return trained
        table = self._table("vae", lambda: defaults.choose_vae(data.size, images))
        values = {
            "in_channels": data.channels,
            "out_channels": data.channels,
            "sample_size": data.size,
            "scaling_factor": 1.0,
            "force_upcast": False,
            **_blocks(table, "DownEncoderBlock2D", "UpDecoderBlock2D"),
        }
        vae = AutoencoderKLConfig.from_dict(values, f"{self.source} [vae]")
        _check_vae(vae, data, self.source)
        return vae

    def _unet(self, data: DataRecipe, vae: AutoencoderKLConfig, images: int) -> UNet2DConfig:
        side = data.size // vae.downscale
        table = self._table("unet", lambda: defaults.choose_unet(side, data.channels, images))
        values = {
            "in_channels": vae.latent_channels,
            "out_channels": vae.latent_channels,
            "sample_size": side,
            **_blocks(table, "AttnDownBlock2D", "AttnUpBlock2D"),
        }
        return UNet2DConfig.from_dict(values, f"{self.source} [unet]")


def _tables(values: Mapping[str, Any], source: str) -> dict[str, Mapping[str, Any]]:
    """The tables of a recipe by name, those of [train] as `train.vae`; raises `ConfigError`."""
    _check_tables(values, _TABLES, source)
    train = values.get("train", {})
    _check_tables(train, _STAGES, source, "train.")
    return {name: table for name, table in values.items() if name != "train"} | {
        f"train.{stage}": table for stage, table in train.items()
    }


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
