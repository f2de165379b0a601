"""`darkroom sample`, `verify` and `models` with a model in one file."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from app.cli.main import cli
from app.engine.runner import Runner
from app.engine.wire import Load
from app.errors import UnknownImage
from app.files.ids import image_id, params_of
from app.schemas.requests import GenerateRequest
from models.library import Located
from models.sampling import Prediction
from tests import stable

pytestmark = pytest.mark.slow
SIDE = 256  # the least of a file of 1.x
WANTED = ["--prompt", "a cat", "--steps", "1", "--seed", "3", "--guidance-scale", "2"]
SMALL = ["--width", str(SIDE), "--height", str(SIDE)]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stable.save_file("1.5", tmp_path_factory.mktemp("films") / "dream_v1.5.safetensors")


def open_eager(model: Located, device: str, prediction: Prediction | None = None) -> Runner:
    load = Load(
        {},
        "cpu",
        "float32",
        "eager",
        compile=False,
        slots=2,
        rows=None,
        prediction=prediction,
    )
    return Runner.open(model.name, model.fetched(), load)


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is compiled for one picture."""
    for command in ("sample", "verify"):
        monkeypatch.setattr(f"app.cli.{command}.open_runner", open_eager)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_a_picture_says_which_file_drew_it(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("sample", "--model", str(file), *WANTED, *SMALL).exit_code == 0
    picture = tmp_path / "dream_v1.5-a-cat-3.png"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with Image.open(picture) as image:
        assert image.size == (SIDE, SIDE)
        said = image.info["parameters"]
    assert f"Model hash: {digest[:10]}, Model: dream_v1.5" in said
    told = run("verify", str(picture), "--model", str(file))
    assert (told.exit_code, f"same: all {SIDE**2} pixels" in told.output) == (0, True), told.output
    other = run("verify", str(picture), "--model", str(file), "--prediction", "v_prediction")
    assert other.exit_code == 2
    assert "other checkpoint" in other.output, "what the UNet predicts belongs to the digest"
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(file.read_bytes()[:-1] + b"\0")
    told = run("verify", str(picture), "--model", str(copy))
    assert told.exit_code == 2
    assert f"other checkpoint: it is by dream_v1.5 {digest[:10]}, and copy here is" in told.output


def test_an_image_of_a_file_has_an_id(file: Path) -> None:
    info = open_eager(Located("dream", file), "cpu").info
    assert info.digest == hashlib.sha256(file.read_bytes()).hexdigest()
    wanted = {"prompt": "a cat", "clip_skip": 1, "steps": 1, "seed": 3, "width": SIDE}
    params = GenerateRequest.parse(wanted).to_params({"dream": info})
    name = image_id(params, 0, info)
    assert name is not None
    assert params_of(name, {"dream": info}) == params
    other = replace(info, name="other", digest="0" * 64)
    assert params_of(name, {"other": other, "dream": info}) == params
    with pytest.raises(UnknownImage):
        params_of(name, {"other": other})


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_what_its_user_knows_goes_before_what_the_file_says(file: Path, prediction: str) -> None:
    told = run("models", str(file), "--prediction", prediction).output
    assert f"prediction        {prediction}\n" in told
