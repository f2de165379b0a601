"""The command line: the same pixels as the library, and errors in one line."""

import io
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fastapi.testclient import TestClient
from PIL import Image

from app.cli.main import cli
from models.pipeline import LatentDiffusion, to_uint8

pytestmark = pytest.mark.usefixtures("opened_once")


def test_sample_draws_what_the_library_draws(
    tiny_folder: Path, tiny: LatentDiffusion, tmp_path: Path
) -> None:
    out = tmp_path / "dog.png"
    flags = ["--class", "dog", "--steps", "3", "--guidance-scale", "2", "--seed", "9", "--n", "2"]
    result = CliRunner().invoke(
        cli, ["sample", "--model", str(tiny_folder), *flags, "--eta", "0.5", "--out", str(out)]
    )
    assert result.exit_code == 0, result.output
    expected = to_uint8(tiny.sample(["dog"] * 2, [9, 10], steps=3, guidance_scale=2, eta=0.5))
    for seed, image in zip((9, 10), expected, strict=True):
        with Image.open(tmp_path / f"dog-{seed}.png") as made:
            assert made.tobytes() == image.numpy().tobytes()
            assert f"Seed: {seed}," in made.info["parameters"]


def drawn(*flags: object) -> Result:
    """`darkroom sample` with few steps."""
    common = ["sample", "--class", "dog", "--steps", "3"]
    return CliRunner().invoke(cli, [*common, *map(str, flags)], catch_exceptions=False)


def test_without_a_target_a_picture_is_named_by_what_it_is(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert drawn("--model", tiny_folder, "--seed", 9).stdout == "tiny-dog-9.png\n"
    assert drawn("--model", tiny_folder).exit_code == 0, "nor does a seed have to be given"
    (tmp_path / "album").mkdir()
    made = drawn("--model", tiny_folder, "--seed", 9, "--n", 2, "--out", "album")
    assert made.stdout.split() == ["album/tiny-dog-9.png", "album/tiny-dog-10.png"]
    first, second = tmp_path / "tiny-dog-9.png", tmp_path / "album/tiny-dog-9.png"
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("name", "kind"), [("a.webp", "WEBP"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.PNG", "PNG")]
)
def test_the_format_is_by_the_suffix(
    tiny_folder: Path, tmp_path: Path, name: str, kind: str
) -> None:
    result = drawn("--model", tiny_folder, "--out", tmp_path / name)
    assert result.stdout == f"{tmp_path / name}\n"
    with Image.open(tmp_path / name) as image:
        assert image.format == kind


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.gif", "ends with '.gif'; allowed: .png, .webp, .jpg, .jpeg, or an existing"),
        ("a", "ends with ''; allowed: .png"),
        ("no/such/a.png", "no/such: no such folder"),
        ("file.png/a.png", "file.png: no such folder"),
    ],
)
def test_a_target_is_checked_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.png").touch()
    result = drawn("--model", "no-such-model", "--out", out)
    assert result.exit_code == 1
    assert message in result.stderr


@pytest.mark.slow
def test_sample_draws_what_the_server_draws(
    tiny_folder: Path, server: TestClient, tmp_path: Path
) -> None:
    """The same request by the same words: an index is a class, an interval its narrowest."""
    out = tmp_path / "x.png"
    flags = ["--class", "1", "--steps", "4", "--seed", "4", "--guidance-scale", "30"]
    flags += ["--guidance-interval", "0.1", "0.9", "--out", str(out)]
    result = CliRunner().invoke(cli, ["sample", "--model", str(tiny_folder), *flags])
    assert result.exit_code == 0, result.output
    wanted = {"class": "dog", "steps": 4, "seed": 4, "guidance_scale": 30}
    answer = server.post("/generate", json=wanted | {"guidance_interval": [0.25, 1]})
    with Image.open(out) as ours, Image.open(io.BytesIO(answer.content)) as theirs:
        assert ours.info["parameters"] == theirs.info["parameters"]


def test_models_lists_what_ships() -> None:
    assert CliRunner().invoke(cli, ["models"]).output.startswith("digits ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--model", "nothing", "--out", "x.png"], "no model 'nothing'; shipped: digits"),
        (
            ["sample", "--model", "TINY", "--class", "bird", "--out", "x.png"],
            "unknown class 'bird'",
        ),
        (["sample", "--model", "TINY", "--steps", "0", "--out", "x.png"], "0 is not in the range"),
        (["sample", "--model", "TINY", "--steps", "1001", "--out", "x.png"], "from 1 to 1000"),
        (
            ["sample", "--model", "TINY", "--guidance-interval", "0.7", "0.2", "--out", "x.png"],
            "guidance_interval: must begin before it ends",
        ),
        (["sample", "--model", "TINY", "--out", "/no/such/x.png"], "/no/such: no such folder"),
        (
            ["sample", "--model", "TINY", "--eta", "nan", "--out", "x.png"],
            "'nan' is not in the ran",
        ),
        (
            ["sample", "--model", "TINY", "--guidance-scale", "inf", "--out", "x.png"],
            "inf is not in the range 0<=x<=30",
        ),
        (["sample", "--model", "TINY", "--device", "gpu", "--out", "x.png"], "device is 'gpu'"),
        (
            ["sample", "--model", "TINY", "--device", "cuda:99", "--out", "x.png"],
            "device 'cuda:99' does not exist",
        ),
        (["sample", "--model", "~nobody-here/x", "--out", "x.png"], "no model '~nobody-here/x'"),
        (["serve", "--models", "x" * 300], "no model 'xxx"),
        (["sample", "--model", ".", "--out", "x.png"], "model_index.json is missing"),
        (["serve", "--models", "nothing"], "settings: DARKROOM_MODELS: no model 'nothing'"),
        (["serve", "--port", "-1"], "settings: DARKROOM_PORT: Input should be greater"),
        (["train", "vae", "nothing", "--out", "x"], "nothing: no such recipe; shipped:"),
        (["train", "vae", "digits", "--data-dir", "/no", "--out", "x"], "darkroom data get mnist"),
        (
            ["evaluate", "--model", "TINY", "--steps", "ten"],
            "'ten' is not a comma-separated list of whole numbers",
        ),
        (["evaluate", "--model", "TINY", "--guidance-scale", "nan"], "list of numbers"),
        (["data", "get", "imagenet"], "imagenet: no such data set; known: mnist"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = [str(tiny_folder) if part == "TINY" else part for part in arguments]
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, given)
    assert result.exit_code in (1, 2)
    assert message in result.output
    assert result.output.rstrip().splitlines()[-1].startswith("Error: ")
    assert not isinstance(result.exception, ValueError), "no traceback"
