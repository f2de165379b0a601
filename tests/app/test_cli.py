"""The command line: the same pixels as the library, and errors in one line."""

import io
from pathlib import Path

import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from PIL import Image

from app.cli import cli
from models.pipeline import LatentDiffusion, to_uint8


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
        (["sample", "--model", "TINY", "--out", "/no/such/x.png"], "No such file or directory"),
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
            "device 'cuda:99' is not there",
        ),
        (["sample", "--model", "~nobody-here/x", "--out", "x.png"], "no model '~nobody-here/x'"),
        (["serve", "--models", "x" * 300], "no model 'xxx"),
        (["sample", "--model", ".", "--out", "x.png"], "model_index.json is missing"),
        (["serve", "--models", "nothing"], "settings: models: no model 'nothing'"),
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
