"""Class sheets: each cell is the picture of its class, and only such files are taken for one."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from app.cli.main import cli
from app.engine.runner import Runner
from models.files import CheckpointError
from models.library import WEIGHTS
from models.pipeline import LatentDiffusion
from models.sheet import SEED, STEPS, write_sheet
from models.sheet_file import MAX_BYTES, SHEET, read_sheet, sheet_size
from models.training.diffusion import _show_classes
from tests.conftest import CLASSES
from tests.fakes import LOAD

SIDE = 16
EAGER = msgspec.structs.replace(LOAD, backend="eager")


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_folder, tmp_path / "tiny")


@pytest.fixture(scope="module")
def sheet(tiny: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_sheet(tmp_path_factory.mktemp("sheet"), tiny).read_bytes()


def cell(sheet: Image.Image, number: int, width: int, height: int) -> Image.Image:
    return sheet.crop((number * width, 0, (number + 1) * width, height))


def test_a_cell_is_what_its_seed_draws_alone(folder: Path, tiny: LatentDiffusion) -> None:
    path = write_sheet(folder, tiny)
    assert [path.name for path in folder.glob("*classes*")] == [SHEET], "no draft stays"
    with Image.open(path) as sheet:
        assert sheet.size == (SIDE * len(CLASSES), SIDE)
        for number, name in enumerate(CLASSES):
            (alone,) = tiny.images([name], [SEED], steps=STEPS)
            assert cell(sheet, number, SIDE, SIDE).tobytes() == alone.tobytes()


@pytest.mark.slow
def test_the_shipped_sheet_shows_the_shipped_model() -> None:
    model = LatentDiffusion.open("digits")
    with Image.open(WEIGHTS / "digits" / SHEET) as sheet:
        assert sheet.size == (320, 32)
        (alone,) = model.images(["7"], [SEED], steps=STEPS)
        pairs = zip(cell(sheet, 7, 32, 32).tobytes(), alone.tobytes(), strict=True)
        assert max(abs(one - other) for one, other in pairs) <= 1, "machines round differently"


def test_the_command_draws_the_sheet_of_a_folder(folder: Path, sheet: bytes) -> None:
    done = CliRunner().invoke(cli, ["models", str(folder), "--sheet"])
    assert (done.exit_code, done.output) == (0, f"{folder / SHEET}\n")
    assert (folder / SHEET).read_bytes() == sheet


def test_the_command_says_what_has_no_sheet(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.touch()
    for arguments, told in (([], "--sheet needs MODEL"), ([str(file)], "a single file has no")):
        done = CliRunner().invoke(cli, ["models", *arguments, "--sheet"])
        assert done.exit_code
        assert told in done.output


def test_training_leaves_the_sheet_with_the_model_or_says_why_not(
    folder: Path, sheet: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    _show_classes(folder, torch.device("cpu"))
    assert (folder / SHEET).read_bytes() == sheet
    assert "".join(capsys.readouterr()) == ""
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("UNet2DModel", "Other"))
    _show_classes(folder, torch.device("cpu"))
    assert f"{folder}: no class sheet: {index}: " in "".join(capsys.readouterr())


def test_only_a_png_of_the_right_size_is_read(folder: Path, sheet: bytes) -> None:
    def read(classes: int = 3) -> bytes | None:
        return read_sheet(folder, classes, SIDE, SIDE)

    path = folder / SHEET
    assert read() is None
    path.write_bytes(sheet)
    assert read() == sheet
    assert read(0) is None
    wrong = {
        "need 64x16": (sheet, 4),
        "would have": (sheet, 1 << 20),
        "whole PNG": (sheet[:-1], 3),
        "is no PNG": (b"\x89PNG\r\n\x1a\r" + sheet[8:], 3),
        "allowed: up to": (sheet[:-12] + bytes(MAX_BYTES) + sheet[-12:], 3),
    }
    for why, (content, classes) in wrong.items():
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=why):
            read(classes)
    path.unlink()
    path.symlink_to(WEIGHTS / "digits" / SHEET)
    with pytest.raises(CheckpointError, match="leads out"):
        read()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="is a pipe"):
        read()


def test_a_sheet_has_a_largest_size() -> None:
    assert sheet_size(1024, 64, 64) == (65_536, 64)
    with pytest.raises(ValueError, match="would have 4,198,400 pixels"):
        sheet_size(1025, 64, 64)
    with pytest.raises(ValueError, match="without classes"):
        sheet_size(0, 64, 64)


def test_a_worker_tells_the_sheet_and_goes_on_without_a_wrong_one(
    folder: Path, sheet: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / SHEET).write_bytes(sheet)
    runner = Runner.open("tiny", folder, EAGER)
    assert runner.info.sheet == sheet
    assert "sheet" not in repr(runner.info)
    digest = runner.info.digest
    (folder / SHEET).write_bytes(sheet[:-1])
    runner = Runner.open("tiny", folder, EAGER)
    assert runner.info.sheet is None
    assert runner.info.digest == digest, "it is no part of the checkpoint"
    assert "tiny: its class sheet is not shown" in caplog.text
