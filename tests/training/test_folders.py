"""Folders as people have them: what is a split, a class or a leftover; what is held out."""

import os
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.training.data import DataError, load, load_both
from models.training.folders import held_out, hold_out
from models.training.recipe import DataRecipe

RECIPE = DataRecipe(source="set", size=8)


def fill(folder: Path, shade: int = 0, names: Iterable[object] = range(6)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (8, 8), shade).save(folder / f"{name}.png")


def fill_split(tmp_path: Path, shades: dict[str, int]) -> None:
    for split, shade in shades.items():
        for name in ("a", "b"):
            fill(tmp_path / "set" / split / name, shade)


class TestSplits:
    @pytest.mark.parametrize(
        ("train", "test"),
        [
            *(("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "test")),
            *(("Train", "Val"), ("TRAIN", "VALID"), ("training", "Testing"), ("train", "dev")),
            *(("train_set", "test_set"), ("Training Set", "eval"), ("train-images", "test-images")),
        ],
    )
    def test_they_are_no_classes(self, tmp_path: Path, train: str, test: str) -> None:
        fill_split(tmp_path, {train: 10, test: 20})
        data = load_both(RECIPE, tmp_path)
        assert data.train.classes == data.test.classes == ("a", "b")
        assert data.train.pixels.unique().tolist() == [10]
        assert data.test.pixels.unique().tolist() == [20]
        assert data.summary == "24 images, 2 classes, 12 held out"

    @pytest.mark.parametrize("validation", ["val", "Valid", "VALIDATION", "dev"])
    def test_of_three_test_is_held_out(self, tmp_path: Path, validation: str) -> None:
        fill_split(tmp_path, {"train": 10, validation: 20, "Test": 30})
        data = load_both(RECIPE, tmp_path)
        assert data.train.pixels.unique().tolist() == [10]
        assert data.test.pixels.unique().tolist() == [30]
        assert data.summary == (f"24 images, 2 classes, 12 held out, 1 passed over: {validation}/")

    def test_train_alone_is_split_by_name(self, tmp_path: Path) -> None:
        fill_split(tmp_path, {"train": 10})
        data = load_both(RECIPE, tmp_path)
        assert data.train.classes == ("a", "b")
        assert (len(data.train) + len(data.test), len(data.test) > 0) == (12, True)

    def test_a_test_folder_without_classes_is_passed_over(self, tmp_path: Path) -> None:
        """As competitions have it; the validation set is held out then, or a part of train."""
        fill_split(tmp_path, {"train": 10})
        fill(tmp_path / "set/test", 30)
        data = load_both(RECIPE, tmp_path)
        assert data.test.pixels.unique().tolist() == [10]
        assert data.summary.endswith("1 passed over: test/")
        fill_split(tmp_path, {"val": 20})
        assert load_both(RECIPE, tmp_path).test.pixels.unique().tolist() == [20]

    def test_what_lies_beside_a_split_without_pictures_is_passed_over(self, tmp_path: Path) -> None:
        fill_split(tmp_path, {"train": 10, "val": 20})
        (tmp_path / "set/labels").mkdir()
        (tmp_path / "set/labels/all.csv").touch()
        assert load_both(RECIPE, tmp_path).train.classes == ("a", "b")

    def test_a_class_may_be_named_train(self, tmp_path: Path) -> None:
        for name in ("bus", "car", "train"):
            fill(tmp_path / "set" / name)
        assert load_both(RECIPE, tmp_path).train.classes == ("bus", "car", "train")

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            (["train/a", "val/a", "shoes"], "train, val holds classes, .*shoes beside it is none"),
            (["test/a", "a", "b"], "test holds classes, so it is a split; a beside it is none"),
            (["test/a", "val/a"], "test, val but no train; allowed: train/ with the classes"),
            (["train/a", "val/a", "valid/a"], "valid: val is a split of the same kind"),
            (["train", "test"], "test, train must hold one folder of images for each class"),
            (["a", "train", "val"], "train, val must hold one folder of images for each class"),
            (["train/a", "val/b"], "train and val hold different classes: a, b in one alone"),
            (["cat/train", "cat/val"], "set/cat: holds train, a split; allowed: train/cat"),
            (["set/train/a", "set/test/a"], "holds train, a split; .*or this folder as the source"),
        ],
    )
    def test_half_a_split_is_refused(
        self, tmp_path: Path, folders: list[str], message: str
    ) -> None:
        for name in folders:
            fill(tmp_path / "set" / name)
        with pytest.raises(DataError, match=message):
            load_both(RECIPE, tmp_path)


class TestLeftovers:
    def test_what_tools_leave_behind_is_passed_over_and_said(self, tmp_path: Path) -> None:
        root = tmp_path / "set"
        fill(root / "a")
        (root / "notes.txt").touch()
        for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", ".hidden.jpg", "x.mp4"):
            (root / "a" / name).write_bytes(b"no picture")
        for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir", "inner/.thumbs"):
            fill(root / "a" / name)
        fill(root / "__MACOSX")
        fill(root / "a/inner")
        (root / "a/again").symlink_to(root / "a")
        data = load_both(RECIPE, tmp_path)
        assert data.train.classes == ("a",)
        assert data.summary.startswith("12 images, 1 class, ")
        assert set(data.passed_over) == {
            *("__MACOSX/", "notes.txt", "a/Thumbs.db", "a/desktop.ini", "a/.DS_Store"),
            *("a/._0.png", "a/.hidden.jpg", "a/x.mp4", "a/.ipynb_checkpoints/", "a/__MACOSX/"),
            *("a/@eaDir/", "a/inner/.thumbs/", "a/again/"),
        }
        assert "13 passed over: __MACOSX/, notes.txt, a/.DS_Store, " in data.summary
        assert data.summary.endswith(", ...")

    def test_names_of_files_stay_in_one_line(self, tmp_path: Path) -> None:
        fill(tmp_path / "set/a")
        (tmp_path / "set/a/two\nlines.txt").touch()
        (tmp_path / "set/a" / os.fsdecode(b"caf\xe9.txt")).touch()
        assert "caf\\udce9.txt, a/two\\nlines.txt" in load_both(RECIPE, tmp_path).summary


class TestClassNames:
    @pytest.mark.parametrize("name", ["cat ", " cat", "c\u200bat", "cat\u202e", "c\nat", "c\tat"])
    def test_what_no_model_can_have_is_refused(self, tmp_path: Path, name: str) -> None:
        fill(tmp_path / "set/dog")
        fill(tmp_path / "set" / name)
        with pytest.raises(DataError, match=r"set: its classes' names: has .*: a class name"):
            load_both(RECIPE, tmp_path)

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        fill(tmp_path / "set" / os.fsdecode(b"caf\xe9"))
        with pytest.raises(DataError, match="a class name is one line"):
            load_both(RECIPE, tmp_path)

    def test_names_are_kept_in_nfc(self, tmp_path: Path) -> None:
        fill(tmp_path / "set" / unicodedata.normalize("NFD", "café"))
        assert load_both(RECIPE, tmp_path).train.classes == ("café",)
        fill(tmp_path / "set/café")
        with pytest.raises(DataError, match="café: two folders have names that are one in Unicode"):
            load_both(RECIPE, tmp_path)

    def test_a_split_may_come_from_two_file_systems(self, tmp_path: Path) -> None:
        fill(tmp_path / "set/train" / unicodedata.normalize("NFD", "café"), 10)
        fill(tmp_path / "set/val/café", 20)
        assert load_both(RECIPE, tmp_path).test.pixels.unique().tolist() == [20]

    def test_an_empty_class_is_named(self, tmp_path: Path) -> None:
        fill(tmp_path / "set/a")
        for name in ("b", "c"):
            (tmp_path / "set" / name).mkdir()
        with pytest.raises(DataError, match=r"set/b, .*set/c: no images to train on; types: \.png"):
            load_both(RECIPE, tmp_path)


class TestHeldOut:
    def test_at_least_one_and_never_a_whole_class(self, tmp_path: Path) -> None:
        for trial in range(40):
            for sizes in ((2,), (1, 2), (3, 1), (2, 2, 2), (20, 20, 20)):
                pictures = [
                    (tmp_path / f"{trial}{label}" / f"{i}.png", label)
                    for label, size in enumerate(sizes)
                    for i in range(size)
                ]
                train, test = hold_out(tmp_path, pictures)
                assert test
                assert {label for _, label in train} == set(range(len(sizes)))
                assert set(train + test) == set(pictures)

    def test_a_large_set_holds_out_what_it_always_did(self, tmp_path: Path) -> None:
        pictures = [(tmp_path / "a" / f"{i}.png", 0) for i in range(500)]
        train, test = hold_out(tmp_path, pictures)
        expected = [path for path, _ in pictures if held_out(path.relative_to(tmp_path))]
        assert [path for path, _ in test] == expected
        assert 25 < len(test) < 75
        assert [path for path, _ in train] == [p for p, _ in pictures if p not in expected]

    def test_where_none_can_be_it_says_so(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            fill(tmp_path / "set" / name, names=[0])
        with pytest.raises(DataError, match="no class has two images, so none can be held out"):
            load_both(RECIPE, tmp_path)


class TestUnreadable:
    def break_some(self, folder: Path) -> None:
        whole = (folder / "0.png").read_bytes()
        (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
        (folder / "empty.jpg").touch()
        (folder / "text.webp").write_text("no picture")
        (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
        (folder / "gone.png").symlink_to(folder / "nowhere.png")

    def test_all_are_named_at_once(self, tmp_path: Path) -> None:
        fill_split(tmp_path, {"train": 10, "test": 20})
        self.break_some(tmp_path / "set/train/a")
        self.break_some(tmp_path / "set/test/b")
        with pytest.raises(DataError) as raised:
            load(RECIPE, tmp_path, "train")
        message = str(raised.value)
        assert "10 of 34 images cannot be read: " in message
        for name in ("train/a/empty.jpg", "train/a/text.webp", "test/b/empty.jpg"):
            assert f"{name}: not an image" in message
        assert "train/a/cut.png: " in message
        assert "train/a/phone.heic: Pillow reads no .heic files here" in message
        assert "test/b/gone.png: [Errno 2] No such file" in message
        assert message.endswith("set skip_unreadable = true under [data] to pass over them")

    def test_the_message_is_bounded(self, tmp_path: Path) -> None:
        fill(tmp_path / "set/a")
        for i in range(500):
            (tmp_path / "set/a" / f"{i:04d}{'x' * 200}.png").touch()
        with pytest.raises(DataError, match=r"500 of 506 images .*; and 480 more") as raised:
            load_both(RECIPE, tmp_path)
        assert len(str(raised.value)) < 3000

    def test_they_are_passed_over_where_the_recipe_says_so(self, tmp_path: Path) -> None:
        fill(tmp_path / "set/a")
        before = load_both(RECIPE, tmp_path)
        self.break_some(tmp_path / "set/a")
        data = load_both(DataRecipe(source="set", size=8, skip_unreadable=True), tmp_path)
        assert torch.equal(data.train.pixels, before.train.pixels)
        assert len(data.test) == len(before.test)
        assert "5 passed over: a/cut.png, a/empty.jpg, " in data.summary
        (tmp_path / "set/b").mkdir()
        (tmp_path / "set/b/empty.png").touch()
        with pytest.raises(DataError, match="set/b: no images to train on"):
            load_both(DataRecipe(source="set", size=8, skip_unreadable=True), tmp_path)
