"""Reading data sets: what is there is read as it is, and what is wrong is named."""

import functools
import hashlib
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.training import data
from models.training.data import DataError, IdxSource, Split, download, held_out, load, read_idx
from models.training.recipe import DataRecipe


def test_idx_files_are_padded_in_the_middle_and_scaled(data_dir: Path) -> None:
    images = load(DataRecipe(source="mnist", size=16), data_dir, "train")
    assert images.pixels.shape == (64, 1, 16, 16)
    assert images.classes == tuple("0123456789")
    assert images.labels[:12].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    assert images.pixels[:, :, [0, -1]].max() == 0
    assert images.pixels[3, 0, 1 + 3 + 2, 1:15].min() == 255, "the bar of class 3"
    assert images.scaled()[3, 0, 6, 5] == 1
    assert images.scaled(torch.tensor([0])).min() == -1
    assert len(load(DataRecipe(source="mnist", size=16), data_dir, "test")) == 40


def test_three_channels_of_a_grey_source_are_alike(data_dir: Path) -> None:
    images = load(DataRecipe(source="mnist", size=14, channels=3), data_dir, "test")
    assert images.pixels.shape == (40, 3, 14, 14)
    assert torch.equal(images.pixels[:, 0], images.pixels[:, 2])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an idx file"),
        (b"\0\0\x0d\1\0\0\0\1\0\0\0\0", "not an idx file of unsigned bytes"),
        (b"\0\0\x08\1\0\0\0\5abc", "11 bytes do not hold"),
        (b"\0\0\x08\3\0\0", "not an idx file"),
    ],
)
def test_a_broken_idx_file_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "broken-idx1-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: {message}"):
        read_idx(path)


def test_a_damaged_archive_is_named(data_dir: Path, tmp_path: Path) -> None:
    whole = (data_dir / "mnist/train-images-idx3-ubyte.gz").read_bytes()
    path = tmp_path / "images.gz"
    for at in range(20, len(whole) - 1, 97):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        with pytest.raises(DataError, match=str(path)):
            read_idx(path)


def test_labels_in_place_of_images_are_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    labels = (data_dir / "mnist/train-labels-idx1-ubyte.gz").read_bytes()
    for kind in ("images-idx3", "labels-idx1"):
        (tmp_path / f"mnist/train-{kind}-ubyte.gz").write_bytes(labels)
    with pytest.raises(DataError, match="images of 1 dimensions, labels of 1"):
        load(DataRecipe(), tmp_path, "train")


def test_what_is_not_there_says_how_to_get_it(tmp_path: Path, data_dir: Path) -> None:
    with pytest.raises(DataError, match="`darkroom data get mnist` downloads it"):
        load(DataRecipe(), tmp_path, "train")
    with pytest.raises(DataError, match="known: mnist, fashion-mnist, or a folder"):
        load(DataRecipe(source="imagenet"), tmp_path, "train")
    with pytest.raises(DataError, match="images of 14 pixels; size is 8"):
        load(DataRecipe(source="mnist", size=8), data_dir, "train")


def test_folders_are_classes_and_the_splits_share_nothing(tmp_path: Path) -> None:
    colours = {"blue": (0, 0, 255), "red": (255, 0, 0)}
    for name, colour in colours.items():
        (tmp_path / "colours" / name).mkdir(parents=True)
        for i in range(40):
            image = Image.new("RGB", (20 + i, 30), colour)
            image.putpixel((10, 15), (i, i, i))
            image.save(tmp_path / "colours" / name / f"{i}.png")
    recipe = DataRecipe(source="colours", size=8, channels=3)
    train, test = load(recipe, tmp_path, "train"), load(recipe, tmp_path, "test")
    assert train.classes == test.classes == ("blue", "red")
    assert len(train) + len(test) == 80
    assert 0 < len(test) < 20
    assert train.pixels[train.labels == 1][:, 0, 0, 0].unique().tolist() == [255]
    assert len(load(recipe, tmp_path, "train")) == len(train), "the split is a function of names"
    (tmp_path / "colours/red/broken.png").write_bytes(b"not a picture")
    split: Split = "test" if held_out(Path("red/broken.png")) else "train"
    with pytest.raises(DataError, match=r"broken\.png: not an image"):
        load(recipe, tmp_path, split)


def test_photographs_are_turned_upright_and_leftovers_are_no_classes(tmp_path: Path) -> None:
    image = Image.new("L", (8, 8))
    image.paste(255, (0, 0, 8, 4))  # the upper half is white ...
    exif = Image.Exif()
    exif[0x0112] = 3  # ... and the camera was upside down
    for i in range(20):
        for name in ("a", ".ipynb_checkpoints", "__MACOSX"):
            (tmp_path / "set" / name).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "set" / name / f"{i}.png", exif=exif)
    images = load(DataRecipe(source="set", size=8), tmp_path, "train")
    assert images.classes == ("a",)
    assert (images.pixels[:, 0, :4] == 0).all()
    assert (images.pixels[:, 0, 4:] == 255).all()
    (tmp_path / "set/b").mkdir()
    with pytest.raises(DataError, match=r"set/b: no images to train on; types: \.png"):
        load(DataRecipe(source="set", size=8), tmp_path, "train")


def test_a_folder_that_comes_split_stays_split(tmp_path: Path) -> None:
    for split, shade in (("train", 10), ("test", 20)):
        for name in ("a", "b"):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(12):
                Image.new("L", (8, 8), shade).save(tmp_path / "set" / split / name / f"{i}.png")
    recipe = DataRecipe(source="set", size=8)
    for split, shade in (("train", 10), ("test", 20)):
        images = load(recipe, tmp_path, "train" if split == "train" else "test")
        assert images.classes == ("a", "b")
        assert images.labels.bincount().tolist() == [12, 12]
        assert images.pixels.unique().tolist() == [shade]
    (tmp_path / "set/test/c").mkdir()
    with pytest.raises(DataError, match="train and test hold different classes"):
        load(recipe, tmp_path, "train")


def test_a_source_may_be_a_path_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("L", (8, 8)).save(tmp_path / "set" / name / f"{i}.png")
    for source in (str(tmp_path / "set"), "~/set"):
        assert load(DataRecipe(source=source, size=8), Path("/nowhere"), "train").classes


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_download_tries_the_next_mirror_and_checks_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mirror, content in (("bad", b"tampered"), ("good", b"digits")):
        (tmp_path / mirror).mkdir()
        (tmp_path / mirror / "file.gz").write_bytes(content)
    handler = functools.partial(_Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}"
        digest = {"file.gz": hashlib.sha256(b"digits").hexdigest()}
        both = IdxSource(("0",), (f"{at}/bad/", f"{at}/good/"), digest, "none")
        monkeypatch.setitem(data.SOURCES, "both", both)
        assert (download("both", tmp_path / "to") / "file.gz").read_bytes() == b"digits"
        bad = IdxSource(("0",), (f"{at}/bad/", f"{at}/none/"), digest, "none")
        monkeypatch.setitem(data.SOURCES, "bad", bad)
        with pytest.raises(DataError, match="no mirror gave it"):
            download("bad", tmp_path / "to")
        server.shutdown()
    assert not (tmp_path / "to/bad/file.gz").exists()
    with pytest.raises(DataError, match="known: mnist, fashion-mnist"):
        download("imagenet", tmp_path)


def test_every_published_file_has_a_checksum() -> None:
    for source in (data.SOURCES["mnist"], data.SOURCES["fashion-mnist"]):
        assert len(source.sha256) == 4
        assert all(len(digest) == 64 for digest in source.sha256.values())
        assert len(source.classes) == 10
    assert np.unique(list(data.SOURCES["mnist"].sha256.values())).size == 4
