"""From images on disk to a model that draws what it is asked for, by the command line alone.

The images are scikit-learn's 1,797 handwritten digits of 8 x 8 pixels (UCI), which come with the
package, so this runs anywhere.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.datasets import load_digits

from app.cli.main import cli
from models.pipeline import LatentDiffusion
from models.sheet import SEED
from models.sheet_file import SHEET

pytestmark = pytest.mark.training
RECIPE = """
[data]
source = "digits"
size = 8

[vae]
block_out_channels = [16, 32]
layers_per_block = 1
latent_channels = 4
norm_num_groups = 8

[unet]
block_out_channels = [24, 48]
layers_per_block = 1
attention_head_dim = 24
norm_num_groups = 8

[scheduler]
beta_schedule = "scaled_linear"
beta_start = 0.0015
beta_end = 0.0195
rescale_betas_zero_snr = true
prediction_type = "v_prediction"
timestep_spacing = "trailing"
clip_sample = false

[train.vae]
images = 14_000
batch_size = 64
learning_rate = 2e-3
warmup_steps = 50
kl_weight = 1e-3

[train.diffusion]
images = 20_000
batch_size = 128
learning_rate = 2e-3
warmup_steps = 50
guidance_scale = 1.5
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`data/digits/<class>/<number>.png` and the recipe."""
    folder = tmp_path_factory.mktemp("end-to-end")
    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / "data/digits" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(image * 255 / 16).astype(np.uint8)).save(path)
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


def darkroom(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def held_out(folder: Path) -> list[dict[str, float]]:
    """What each report measured on held-out images, in order."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "test"]


def test_digits_in_digits_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))  # the classifier's cache
    recipe, data = folder / "recipe.toml", ("--data-dir", folder / "data", "--device", "cpu")
    darkroom("train", "vae", recipe, *data, "--out", folder / "vae")
    darkroom(
        *("train", "diffusion", recipe, *data, "--out", folder / "unet"),
        *("--vae", folder / "vae/vae"),
    )
    model = folder / "unet/model"
    darkroom(
        *("evaluate", "--model", model, "--device", "cpu", "--samples", 500),
        *("--steps", "1,10", "--out", folder / "report.json"),
    )

    # An image of one grey everywhere scores 11 dB; a copy of the mean digit 12.
    assert held_out(folder / "vae")[-1]["psnr"] > 18
    # Predicting nothing scores the variance of v, which is 1 for latents of unit scale.
    assert held_out(folder / "unet")[-1]["loss"] < 0.8
    report = json.loads((folder / "report.json").read_text())
    real, restored, hasty, made = report["rows"]
    assert report["classifier_accuracy"] > 0.9
    assert report["caution"] is None
    assert made["accuracy"] > 0.8, "noise is right one time in ten"
    assert real["frechet_distance"] < restored["frechet_distance"] < hasty["frechet_distance"]
    assert made["frechet_distance"] < hasty["frechet_distance"]
    assert hasty["recall"] < 0.1, "one step draws one picture of each digit over and over"
    assert made["recall"] > 0.3

    # What cannot be measured is refused before anything is.
    flags = ["--data", "digits", *map(str, data), "--steps", "10,2000"]
    refused = CliRunner().invoke(cli, ["evaluate", "--model", str(model), *flags])
    assert refused.exit_code == 1
    assert refused.output == "Error: steps is 2000; allowed: 1 to 1000\n"

    # Its classes are shown by what it draws of each.
    opened = LatentDiffusion.open(model)
    with Image.open(model / SHEET) as sheet:
        (seven,) = opened.images(["7"], [SEED])
        assert sheet.crop((56, 0, 64, 8)).tobytes() == seven.tobytes()

    # The same folder serves: its classes are the names of the sub-folders.
    picture = folder / "seven.png"
    darkroom("sample", "--model", model, "--class", "7", "--seed", 1, "--out", picture)
    with Image.open(picture) as image:
        assert image.size == (8, 8)
        assert image.info["parameters"].startswith("7\nSteps: 50, Sampler: DDIM, CFG scale: 1.5,")
