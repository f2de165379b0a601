"""A recipe of `[data]` alone: what is chosen is small, and what is given stays."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from app.cli.main import cli
from models.config import ConfigError
from models.training import classifier
from models.training.recipe import Recipe
from models.unet import UNet2D
from models.vae import AutoencoderKL


def recipe(tmp_path: Path, text: str, *overrides: str) -> Recipe:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return Recipe.read(path, overrides)


def data_alone(tmp_path: Path, size: int, channels: int = 3) -> Recipe:
    return recipe(tmp_path, f'[data]\nsource = "set"\nsize = {size}\nchannels = {channels}')


class TestChosen:
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("count", [1, 60, 3_000, 60_000])
    @pytest.mark.parametrize("size", [8, 28, 32, 48, 64, 96, 128, 256, 512])
    def test_networks_are_small_and_so_are_latents(
        self, tmp_path: Path, size: int, count: int, channels: int
    ) -> None:
        chosen = data_alone(tmp_path, size, channels).for_images(count).with_classes(3)
        with torch.device("meta"):
            networks = AutoencoderKL(chosen.vae), UNet2D(chosen.unet)
        assert sum(p.numel() for n in networks for p in n.parameters()) < 15e6
        side = chosen.unet.latent_size[0]
        assert side * chosen.vae.downscale == size
        assert side <= 32
        assert chosen.scheduler == Recipe.read("digits").scheduler

    def test_the_work_goes_by_size_and_count(self, tmp_path: Path) -> None:
        few = data_alone(tmp_path, 64).for_images(60)
        larger = data_alone(tmp_path, 128).for_images(60)
        more = data_alone(tmp_path, 64).for_images(20_000)
        assert larger.train_vae.images < few.train_vae.images < more.train_vae.images
        assert few.vae.downscale > more.vae.downscale
        assert few.unet.block_out_channels[0] < more.unet.block_out_channels[0]
        assert few.train_vae.steps > 500, "a batch of few images leaves steps enough"
        assert few.train_diffusion.steps > 1000

    def test_before_the_images_are_counted_a_recipe_can_be_read(self, tmp_path: Path) -> None:
        read = data_alone(tmp_path, 64)
        assert read == read.for_images(0)
        assert read == read.for_images(60), "up to 500 images are the least there is"

    @pytest.mark.parametrize(("size", "near"), [(100, "96 or 104"), (30, "28 or 32"), (2, "4")])
    def test_a_size_that_does_not_halve_is_refused(
        self, tmp_path: Path, size: int, near: str
    ) -> None:
        with pytest.raises(ConfigError, match=f"size is {size}; allowed .*: multiples of .*{near}"):
            data_alone(tmp_path, size)


class TestGiven:
    def test_a_recipe_with_all_tables_is_not_touched(self) -> None:
        read = Recipe.read("digits")
        assert read.draft is not None
        assert not read.draft.left_out
        assert read == read.for_images(60) == read.for_images(60_000)

    def test_a_table_that_is_there_is_as_it_always_was(self, tmp_path: Path) -> None:
        text = "[vae]\nblock_out_channels = [8, 16]\nnorm_num_groups = 4\n[train.vae]\nimages = 500"
        read = recipe(tmp_path, text).for_images(60)
        assert read.vae.block_out_channels == (8, 16)
        assert (read.train_vae.images, read.train_vae.batch_size) == (500, 128)
        assert read.unet.sample_size == 16
        assert read.unet.block_out_channels == (64, 128), "what is left out is chosen"

    def test_an_override_changes_what_is_chosen(self, tmp_path: Path) -> None:
        text = '[data]\nsource = "set"\nsize = 64'
        read = recipe(tmp_path, text, "train.vae.images=160", "vae.latent_channels=8")
        chosen = recipe(tmp_path, text)
        assert read.train_vae == replace(chosen.train_vae, images=160)
        assert read.vae == replace(chosen.vae, latent_channels=8)
        assert read.for_images(60).unet.in_channels == 8

    def test_the_unet_is_chosen_for_the_autoencoder_that_was_trained(self, tmp_path: Path) -> None:
        read = data_alone(tmp_path, 64)
        trained = read.for_images(60).vae
        assert read.for_images(5_000).unet.sample_size == 16
        assert read.for_images(5_000, trained).unet.sample_size == 8


def run(*arguments: object) -> str:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.training
def test_a_first_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[data]` alone and fewer images than a batch; the model's data is found when it is judged."""
    monkeypatch.setenv("HOME", str(tmp_path))  # the classifier's cache
    monkeypatch.setattr(classifier, "_MIN_STEPS", 1)
    for split, count in (("train", 7), ("valid", 2)):
        for name, shade in (("dark", 40), ("light", 200)):
            folder = tmp_path / "data/set" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (30 + i, 20), (shade, shade, i)).save(folder / f"{i}.png")
    text = '[data]\nsource = "set"\nsize = 16\nchannels = 3'
    (tmp_path / "recipe.toml").write_text(text)
    flags = ("--data-dir", tmp_path / "data", "--device", "cpu", "--images", 15 * 14)
    vae, unet = tmp_path / "vae", tmp_path / "unet"

    said = run("train", "vae", tmp_path / "recipe.toml", "--out", vae, *flags)
    assert "18 images, 2 classes, 4 held out\n" in said
    assert "210 images, repeats counted, in 15 batches of 14\n" in said
    assert re.search(r"step 10 of 15: about \d+ s to go", said)
    where = ("--vae", vae / "vae", "--out", unet)
    run("train", "diffusion", tmp_path / "recipe.toml", *where, *flags)

    model = unet / "model"
    judge = ("evaluate", "--model", model, "--samples", 4, "--steps", 2, "--device", "cpu")
    table = run(*judge, "--out", tmp_path / "report.json")
    assert "right on 4 real test images" in table
    assert "* not fit to judge by: 4 held-out images tell too little" in table
    assert re.search(r"\| generated \| 2 \| 1 \| [0-9.]+%\* \| [0-9.]+\* \|", table)
    assert "4 held-out images" in json.loads((tmp_path / "report.json").read_text())["caution"]
    for path in model.rglob("*"):
        assert path.is_dir() or str(tmp_path).encode() not in path.read_bytes(), path

    (tmp_path / "data").rename(tmp_path / "moved")
    gone = CliRunner().invoke(cli, [str(argument) for argument in judge])
    assert gone.exit_code == 1
    assert "the model's data is not there any more; --data and --data-dir name" in gone.output
    assert "generated" in run(*judge, "--data-dir", tmp_path / "moved")
    (unet / "training-data.json").unlink()
    unknown = CliRunner().invoke(cli, [str(argument) for argument in judge])
    assert "nothing says what it was trained on" in unknown.output
    assert "generated" in run(*judge, "--data", "set", "--data-dir", tmp_path / "moved")
