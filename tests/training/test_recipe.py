"""Recipes: every key checked, every override applied."""

from pathlib import Path

import pytest

from models.config import ConfigError
from models.training.recipe import RECIPES, Recipe


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_recipes_read(path: Path) -> None:
    recipe = Recipe.read(path.stem)
    assert recipe == Recipe.read(path)
    assert recipe.vae.scaling_factor == 1.0
    assert recipe.unet.in_channels == recipe.vae.latent_channels
    assert recipe.unet.sample_size == recipe.data.size // recipe.vae.downscale


def test_overrides_and_what_follows_from_them() -> None:
    recipe = Recipe.read(
        "digits",
        ["vae.latent_channels=8", "train.vae.seed=3", "data.source=fashion-mnist"],
    )
    assert recipe.unet.in_channels == recipe.unet.out_channels == 8
    assert recipe.train_vae.seed == 3
    assert recipe.data.source == "fashion-mnist"
    assert recipe.with_classes(10).unet.num_class_embeds == 11
    assert recipe.with_classes(0).unet.num_class_embeds is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.vae.sed=1", r"\[train.vae\]: unknown key 'sed'.*known: .*seed"),
        ("train.vae.seed=one", r"\[train.vae\]: seed is 'one'; allowed: int"),
        ("train.vae.images=3", "images is 3, batch_size 64"),
        ("train.vae.ema_length=0.5", "ema_length is 0.5; allowed: above 0, up to 0.28"),
        ("train.both.seed=1", "unknown table 'train.both'"),
        ("vea.latent_channels=2", "unknown table 'vea'"),
        ("data.size=30", "size 30 is no multiple of 4"),
        ("data.size=28", r"\[unet\]: sample_size is 7; allowed: multiples of 2"),
        ("vae.block_out_channels=64", "block_out_channels is 64; allowed: a list of int"),
        ("train.vae=3", "train.vae is 3; a table is needed"),
        ("vae.use_quant_conv=false", "must be true"),
        ("vae.shift_factor=0.5", "the scale of the latents is measured, not given"),
        ("train.vae.kl_weight=-1", "kl_weight is -1; allowed: 0 or more"),
        ("train.vae.clip_norm=0", "clip_norm is 0; allowed: above 0"),
        ("train.vae.seed=-1", "seed is -1; allowed: 0 or more"),
        ("train.diffusion.label_dropout=10", "label_dropout is 10; allowed: a share, 0 to 1"),
        ("train.diffusion.guidance_scale=nan", "guidance_scale is nan; allowed: 0 or more"),
        (
            "data.background=blanc",
            r"\[data\]: background is 'blanc'; allowed: a colour, as",
        ),
        ("data.background='#ffffff00'", "background is '#ffffff00'; allowed: a colour"),
        ("data.skip_unreadable=1", "skip_unreadable is 1; allowed: bool"),
        ("data.size=0", "size is 0; allowed: 1 to 8192"),
        ("train.vae.report_seconds=0", "report_seconds is 0; allowed: above 0"),
        ("data.channels=2", r"channels is 2; allowed: 1, 3"),
        ("scheduler.prediction_type=epsilon", "rescale_betas_zero_snr with"),
        ("seed=1", "write table.key=value"),
        ("train.vae.seed", "write table.key=value"),
        ("vae.latent_channels.x=1", "'latent_channels' is not a table"),
    ],
)
def test_a_wrong_value_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.read("digits", [override])


def test_a_recipe_that_is_not_there_or_not_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such recipe; shipped: .*digits"):
        Recipe.read("nothing")
    (tmp_path / "flat.toml").write_text('data = "mnist"')
    with pytest.raises(ConfigError, match=r"data is 'mnist'; a table is needed"):
        Recipe.read(tmp_path / "flat.toml")
    (tmp_path / "bad.toml").write_text("[data")
    with pytest.raises(ConfigError, match=r"bad\.toml: not TOML"):
        Recipe.read(tmp_path / "bad.toml")
