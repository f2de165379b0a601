"""`darkroom verify` on what the server and the command line make."""

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from PIL import Image, PngImagePlugin

from app.cli.main import cli
from app.files.formats import FORMATS
from tests.engine import served
from tests.fakes import FakeRunner

pytestmark = pytest.mark.usefixtures("opened_once")
WANTED = {"class": "dog", "steps": 4, "guidance_scale": 1.23456789, "eta": 0.3, "seed": 7}


def verify(path: Path, *flags: str) -> Result:
    return CliRunner().invoke(cli, ["verify", str(path), *flags])


def picture(
    server: TestClient, folder: Path, media_type: str = "image/png", **more: object
) -> Path:
    answer = server.post("/generate", json=WANTED | more, headers={"accept": media_type})
    assert answer.status_code == 200, answer.text
    path = folder / f"picture.{media_type.rpartition('/')[2]}"
    path.write_bytes(answer.content)
    return path


@pytest.mark.parametrize("kind", FORMATS, ids=lambda kind: kind.name)
def test_a_picture_is_the_same_in_every_format(
    kind: object, server: TestClient, tiny_folder: Path, tmp_path: Path
) -> None:
    """Numbers that need all their digits among its parameters; a JPEG by its own tables."""
    path = picture(server, tmp_path, kind.media_type, guidance_interval=[0.1, 0.9])  # type: ignore[attr-defined]
    result = verify(path, "--model", str(tiny_folder))
    assert (result.exit_code, "same: all 256 pixels" in result.output) == (0, True), result.output


def test_without_a_class_or_with_the_last_seed(
    server: TestClient, tiny_folder: Path, tmp_path: Path
) -> None:
    for more in ({"class": None}, {"seed": 2**63 - 1}):
        result = verify(picture(server, tmp_path, **more), "--model", str(tiny_folder))
        assert result.exit_code == 0, result.output


def saved(image: Image.Image, path: Path, parameters: str | None) -> Path:
    notes = PngImagePlugin.PngInfo()
    if parameters is not None:
        notes.add_text("parameters", parameters)
    image.save(path, "PNG", pnginfo=notes)
    return path


def test_an_edited_picture_differs_by_the_pixels_edited(
    server: TestClient, tiny_folder: Path, tmp_path: Path
) -> None:
    with Image.open(picture(server, tmp_path)) as image:
        parameters, old = image.info["parameters"], image.getpixel((3, 5))
        for place in ((3, 5), (4, 5), (0, 0)):
            band = image.getpixel(place)
            assert isinstance(old, int)
            assert isinstance(band, int)
            image.putpixel(place, (band + 128) % 256)
        edited = saved(image, tmp_path / "edited.png", parameters)
    result = verify(edited, "--model", str(tiny_folder))
    assert result.exit_code == 1
    assert "differs by 3 of 256 pixels, by at most 128 of 255" in result.output


def test_a_forged_picture_differs(server: TestClient, tiny_folder: Path, tmp_path: Path) -> None:
    """The pixels of one seed under the parameters of another."""
    with Image.open(picture(server, tmp_path)) as image:
        forged = image.info["parameters"].replace("Seed: 7,", "Seed: 8,")
        path = saved(image, tmp_path / "forged.png", forged)
    result = verify(path, "--model", str(tiny_folder))
    assert result.exit_code == 1
    assert "differs by" in result.output


def test_a_cropped_picture_differs(server: TestClient, tiny_folder: Path, tmp_path: Path) -> None:
    with Image.open(picture(server, tmp_path)) as image:
        part = image.crop((0, 0, 8, 16))
        path = saved(part, tmp_path / "part.png", image.info["parameters"])
    result = verify(path, "--model", str(tiny_folder))
    assert result.exit_code == 1
    assert "its size is 8x16, and should be 16x16" in result.output


def test_a_picture_of_another_checkpoint_is_told(
    server: TestClient, tiny_folder: Path, tmp_path: Path
) -> None:
    """Even where only the schedule is another."""
    other = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    config = other / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"beta_end": 0.021}))
    path = picture(server, tmp_path)
    result = verify(path, "--model", str(other))
    assert result.exit_code == 2
    assert "other checkpoint: it is by tiny " in result.output
    assert "does not ship" in verify(path).output


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        (None, "no parameters are written in it"),
        ("", "its parameters lack Model, Model hash, Steps, Seed"),
        ("a cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1", "Darkroom did not write"),
        ("dog\nSteps: 99999, Seed: 7, Model hash: HASH, Model: tiny", "steps: must be an integer"),
        ("dog\nSteps: 4, Seed: -7, Model hash: HASH, Model: tiny", "seed: must be an integer"),
        ("bird\nSteps: 4, Seed: 7, Model hash: HASH, Model: tiny", "unknown class 'bird'"),
        ("dog\nSteps: 4, Seed: 7, Model hash: H, Model: tiny", "other checkpoint"),
        ("dog\nSteps: 4, Seed: 7, Model hash: , Model: tiny", "other checkpoint"),
        ("dog\nSteps: 4, CFG scale: nan, Seed: 7, Model hash: HASH, Model: tiny", "guidance_scale"),
    ],
)
def test_what_cannot_be_compared_is_said_and_never_drawn(
    parameters: str | None, told: str, server: TestClient, tiny_folder: Path, tmp_path: Path
) -> None:
    (model,) = server.get("/models").json()["models"]
    text = parameters and parameters.replace("HASH", model["hash"])
    path = saved(Image.new("L", (16, 16)), tmp_path / "x.png", text)
    result = verify(path, "--model", str(tiny_folder))
    assert result.exit_code == 2
    assert told in result.output


def test_a_file_that_is_no_picture_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    for content in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40)):
        path.write_bytes(content)
        result = verify(path)
        assert result.exit_code == 2, result.output
        assert "\n" not in result.output.strip()


def test_the_marking_can_be_switched_off() -> None:
    with served(FakeRunner(), marking=False) as (client, _):
        for kind in FORMATS:
            wanted = {"class": "a", "seed": 7}
            answer = client.post("/generate", json=wanted, headers={"accept": kind.media_type})
            with Image.open(io.BytesIO(answer.content)) as image:
                assert not image.getexif()
                assert not {"parameters", "xmp", "XML:com.adobe.xmp"} & set(image.info)


@pytest.mark.parametrize("start", [1e-05, 1e-300, 0.1, 0.25])
def test_an_interval_is_read_as_it_was_written_before(
    start: float, server: TestClient, tiny_folder: Path, tmp_path: Path
) -> None:
    """As it was asked for: with an exponent, and not the narrowest that covers the same steps."""
    with Image.open(picture(server, tmp_path, guidance_interval=[start, 0.9])) as image:
        parameters = image.info["parameters"]
        assert "Guidance interval: 0.25-1" in parameters
        old = parameters.replace("interval: 0.25-1", f"interval: {start!r}-0.9")
        path = saved(image, tmp_path / "old.png", old)
    result = verify(path, "--model", str(tiny_folder))
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "/usr/share",
        "/",
        ".",
        "..",
        "~",
        "~root",
        "models/weights/digits",
        "./digits",
        "digits/",
        "digits/../digits",
        "digits/../..",
        "../weights/digits",
        "DIGITS",
        " ",
        "",
        '"digits\\u0000"',
        "x" * 3000,
        "\x1b[2J\x1b]0;owned\x07",
    ],
)
def test_a_picture_names_no_path(
    name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the path is a model's: others wrote the picture."""
    monkeypatch.chdir(Path(__file__).parents[2])
    opened: list[Path] = []
    monkeypatch.setattr("app.cli.verify.open_runner", lambda folder, _: opened.append(folder))
    given = str(tiny_folder) if name == "PATH" else name
    text = f"dog\nSteps: 4, Seed: 7, Model hash: 0, Model: {given}"
    result = verify(saved(Image.new("L", (16, 16)), tmp_path / "x.png", text))
    assert result.exit_code == 2
    assert "does not ship; say where the model is with --model" in result.output
    assert not opened
    assert result.output.count("\n") == 1
    assert result.output.strip().isprintable()
    assert len(result.output) < 300 + len(str(tmp_path))


def test_what_a_picture_says_reaches_a_terminal_in_short_and_printable(
    tiny_folder: Path, tmp_path: Path
) -> None:
    odd = "\x1b[2J" * 200
    text = f"{odd}\nSteps: 4, Seed: 7, Model hash: {odd}, Model: {odd}"
    path = saved(Image.new("L", (16, 16)), tmp_path / "x.png", text)
    result = verify(path, "--model", str(tiny_folder))
    assert "other checkpoint: it is by ?[2J" in result.output
    assert result.output.strip().isprintable()
    assert len(result.output) < 300 + len(str(tmp_path))


def test_only_a_file_is_opened(tmp_path: Path) -> None:
    """A device and a pipe have no end; a sparse file has a terabyte."""
    pipe, endless = tmp_path / "pipe", tmp_path / "endless.png"
    os.mkfifo(pipe)
    with endless.open("wb") as file:
        file.truncate(1 << 40)
    for path in (Path("/dev/zero"), pipe, endless):
        assert verify(path).exit_code == 2
