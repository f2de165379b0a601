"""One picture to pixels, against what Pillow makes of the same picture step by step."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from models.training.data import load_both
from models.training.decoding import PictureError, read_picture, readable
from models.training.recipe import DataRecipe

COLOUR, GREY = DataRecipe(size=8, channels=3), DataRecipe(size=8, channels=1)
RAMP = np.linspace(0, 65_535, 64).round().astype(np.uint16).reshape(8, 8)


def read(image: Image.Image, path: Path, recipe: DataRecipe = COLOUR) -> NDArray[np.uint8]:
    """Through a file: (8, 8, 3), or (8, 8) for grey."""
    image.save(path)
    planes, _ = read_picture(path, recipe)
    return planes.permute(1, 2, 0).numpy().squeeze()


def half_clear() -> Image.Image:
    """Red, the right half transparent; under it is what editors leave there, black."""
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (4, 0, 8, 8))
    return image


class TestTransparency:
    @pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "PA", "tRNS-RGB", "tRNS-L", "gif", "webp"])
    def test_it_is_laid_on_white(self, tmp_path: Path, kind: str) -> None:
        image, suffix = half_clear(), ".png"
        if kind in ("LA", "P"):
            image = image.convert(kind)
        elif kind == "PA":
            image, suffix = image.convert("P").convert("PA"), ".tif"
            image.putalpha(half_clear().getchannel("A"))
        elif kind == "gif":
            suffix = ".gif"
        elif kind == "webp":
            suffix = ".webp"
        elif kind.startswith("tRNS"):
            image = half_clear().convert(kind[5:])
            image.info["transparency"] = (0, 0, 0) if kind.endswith("RGB") else 0
        path = tmp_path / f"image{suffix}"
        save = {"lossless": True} if kind == "webp" else {}
        image.save(path, **save, **image.info)
        planes, changes = read_picture(path, COLOUR)
        assert planes[:, :, 4:].unique().tolist() == [255]
        assert planes[1:, :, :4].max() < 100
        assert "transparent" in changes

    @pytest.mark.parametrize(
        ("ground", "colour"), [("black", (0, 0, 0)), ("#102030", (16, 32, 48))]
    )
    def test_the_ground_is_the_recipes(
        self, tmp_path: Path, ground: str, colour: tuple[int, int, int]
    ) -> None:
        recipe = DataRecipe(size=8, channels=3, background=ground)
        assert read(half_clear(), tmp_path / "a.png", recipe)[0, 7].tolist() == list(colour)

    def test_half_transparent_pixels_are_mixed(self, tmp_path: Path) -> None:
        image = Image.new("RGBA", (8, 8), (0, 0, 0, 51))
        assert np.unique(read(image, tmp_path / "a.png")).tolist() == [204]
        assert np.unique(read(image, tmp_path / "b.png", GREY)).tolist() == [204]

    def test_an_alpha_channel_without_effect_changes_nothing(self, tmp_path: Path) -> None:
        image = Image.radial_gradient("L").resize((8, 8)).convert("RGB")
        image.save(tmp_path / "plain.png")
        image.convert("RGBA").save(tmp_path / "alpha.png")
        plain, alpha = (read_picture(tmp_path / f"{n}.png", COLOUR) for n in ("plain", "alpha"))
        assert torch.equal(plain[0], alpha[0])
        assert alpha[1] == frozenset()


class TestDeepGrey:
    @pytest.mark.parametrize("name", ["a.png", "little.tif", "big.tif", "a.pgm", "wide.tif"])
    def test_sixteen_bits_are_scaled(self, tmp_path: Path, name: str) -> None:
        image = Image.fromarray(RAMP)
        if name == "big.tif":
            image = Image.frombytes("I;16B", (8, 8), RAMP.astype(">u2").tobytes())
        elif name == "wide.tif":
            image = Image.fromarray(RAMP.astype(np.int32))
            assert image.mode == "I"
        expected = np.round(RAMP / 257).astype(np.uint8)
        for recipe in (GREY, COLOUR):
            made = read(image, tmp_path / name, recipe).reshape(8, 8, -1)
            assert all(np.array_equal(plane, expected) for plane in made.transpose(2, 0, 1))
        assert read_picture(tmp_path / name, GREY)[1] == {"deep"}

    def test_what_was_eight_bits_comes_back(self, tmp_path: Path) -> None:
        values = np.arange(64, dtype=np.uint16).reshape(8, 8) * 4
        assert np.array_equal(read(Image.fromarray(values * 257), tmp_path / "a.png", GREY), values)

    def test_a_value_named_transparent_is(self, tmp_path: Path) -> None:
        values = np.full((8, 8), 30_000, np.uint16)
        values[:, 4:] = 1000
        Image.fromarray(values).save(tmp_path / "a.png", transparency=1000)
        planes, changes = read_picture(tmp_path / "a.png", GREY)
        assert changes == {"deep", "transparent"}
        assert planes[:, :, 4:].unique().tolist() == [255]
        assert planes[:, :, :4].unique().tolist() == [round(30_000 / 257)]

    def test_pixels_without_a_range_are_refused(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((8, 8), 70_000, np.int32)).save(tmp_path / "i.tif")
        Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "f.tif")
        for name, message in (("i.tif", "outside 0 to 65535"), ("f.tif", "floating-point")):
            with pytest.raises(PictureError, match=message):
                read_picture(tmp_path / name, GREY)


class TestModes:
    @pytest.mark.parametrize("suffix", [*readable(), ".JPG", ".Tiff"])
    def test_every_type_that_pillow_reads(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"image{suffix}"
        grey = suffix in (".pbm", ".pgm")
        image = Image.new("1", (8, 8), 1) if grey else Image.new("RGB", (8, 8), (250, 250, 250))
        made = read(image, path)
        assert np.abs(made.astype(int) - (255 if grey else 250)).max() <= 6

    def test_common_types_are_among_them(self) -> None:
        common = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".bmp"}
        assert common <= {*readable()}

    @pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr"])
    @pytest.mark.parametrize("recipe", [COLOUR, GREY], ids=["colour", "grey"])
    def test_other_modes_as_pillow_converts_them(
        self, tmp_path: Path, mode: str, recipe: DataRecipe
    ) -> None:
        image = Image.radial_gradient("L").resize((8, 8)).convert("RGB").convert(mode)
        made = read(image, tmp_path / "image.tif", recipe)
        with Image.open(tmp_path / "image.tif") as opened:
            expected = opened.convert("RGB").convert("RGB" if recipe is COLOUR else "L")
        assert np.array_equal(made, np.asarray(expected))

    def test_a_moving_picture_gives_its_first_frame(self, tmp_path: Path) -> None:
        frames = [Image.new("RGB", (8, 8), (shade,) * 3) for shade in (200, 100, 0)]
        for name in ("a.gif", "a.webp", "a.png", "a.tif"):
            frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
            planes, _ = read_picture(tmp_path / name, COLOUR)
            assert planes.float().mean() == pytest.approx(200, abs=3), name

    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P", "I;16", "1"])
    def test_every_mode_is_turned_upright(self, tmp_path: Path, mode: str) -> None:
        white, black = Image.new("L", (8, 8), 255), Image.new("L", (8, 4))
        white.paste(black, (0, 0))  # the camera was upside down: black belongs below
        deep = Image.fromarray(np.asarray(white).astype(np.uint16) * 257)
        exif = Image.Exif()
        exif[0x0112] = 3
        (deep if mode == "I;16" else white.convert(mode)).save(tmp_path / "a.png", exif=exif)
        planes, _ = read_picture(tmp_path / "a.png", GREY)
        assert (planes[0, :4].min(), planes[0, 4:].max()) == (255, 0)


def test_what_was_changed_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "set/a").mkdir(parents=True)
    for i in range(4):
        half_clear().save(tmp_path / "set/a" / f"clear{i}.png")
        Image.fromarray(RAMP).save(tmp_path / "set/a" / f"deep{i}.png")
    assert load_both(DataRecipe(source="set", size=8, channels=3), tmp_path).summary.endswith(
        " held out; 4 transparent, laid on white; 4 of 16-bit grey, scaled to 8 bits"
    )
    grey = load_both(DataRecipe(source="set", size=8), tmp_path)
    assert grey.summary.endswith("; 4 of colour, read as grey (channels = 3 keeps it)")
