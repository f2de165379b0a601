"""Killed and resumed is the same run; so is one shared by two processes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file
from torch import Tensor

from app.cli.main import cli
from models.training.log import Log
from models.training.loop import TrainingError, save_state
from models.training.recipe import Optimisation

pytestmark = pytest.mark.training
ROOT = Path(__file__).parents[2]
STAGES = {
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "diffusion": "model/unet/diffusion_pytorch_model.safetensors",
}


class Runs:
    """`darkroom train` over one data set and recipe, here or in processes of its own."""

    def __init__(self, data_dir: Path, recipe: Path, folder: Path) -> None:
        self.data_dir, self.recipe, self.folder = data_dir, recipe, folder

    def arguments(self, stage: str, out: str, *extra: str) -> list[str]:
        vae = ["--vae", str(self.folder / "vae-whole/vae")] if stage == "diffusion" else []
        where = ["--data-dir", str(self.data_dir), "--out", str(self.folder / out)]
        return ["train", stage, str(self.recipe), *where, "--device", "cpu", *vae, *extra]

    def run(self, stage: str, out: str, *extra: str) -> Result:
        """In this process, which has PyTorch already."""
        return CliRunner().invoke(cli, self.arguments(stage, out, *extra))

    def trained(self, stage: str, out: str, *extra: str) -> dict[str, Tensor]:
        """The weights that such a run ends with."""
        result = self.run(stage, out, *extra)
        assert result.exit_code == 0, result.output
        return self.weights(stage, out)

    def start(
        self, stage: str, out: str, *extra: str, launcher: tuple[str, ...] = ()
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, *launcher, "-m", "app.cli", *self.arguments(stage, out, *extra)],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def weights(self, stage: str, out: str) -> dict[str, Tensor]:
        return load_file(self.folder / out / STAGES[stage])

    def wait_for_checkpoint(self, process: "subprocess.Popen[str]", out: str) -> None:
        state = self.folder / out / "state.pt"
        while not state.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.01)


@pytest.fixture(scope="module")
def runs(data_dir: Path, recipe_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """With a whole run of each stage to compare with."""
    runs = Runs(data_dir, recipe_file, tmp_path_factory.mktemp("runs"))
    for stage in STAGES:
        runs.trained(stage, f"{stage}-whole")
    return runs


@pytest.mark.parametrize(("stage", "how"), [("vae", signal.SIGKILL), ("diffusion", signal.SIGINT)])
def test_killed_and_resumed_ends_with_the_same_bits(
    runs: Runs, stage: str, how: signal.Signals
) -> None:
    out = f"{stage}-{how.name}"
    process = runs.start(stage, out)
    runs.wait_for_checkpoint(process, out)
    process.send_signal(how)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0, "it was to be stopped half-way"
    if how is signal.SIGINT:
        assert "--resume goes on" in output
        assert "Traceback" not in output
    step = torch.load(runs.folder / out / "state.pt", weights_only=True)["step"]
    assert 0 < step < 100
    resumed, whole = runs.trained(stage, out, "--resume"), runs.weights(stage, f"{stage}-whole")
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name


def test_a_run_leaves_its_log_and_pictures(runs: Runs) -> None:
    folder = runs.folder / "diffusion-whole"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [50, 100]
    assert train[-1]["images"] == 1600
    assert {"loss", "norm", "learning_rate", "images_per_second"} <= train[0].keys()
    assert (folder / "samples/0000100.png").is_file()
    assert list((folder / "tensorboard").iterdir())


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ((), "holds a run already; --resume goes on with it"),
        (("--resume", "--seed", "5"), "was trained with train.seed = 0, not 5"),
    ],
)
def test_a_run_is_not_overwritten_nor_resumed_as_another(
    runs: Runs, extra: tuple[str, ...], message: str
) -> None:
    result = runs.run("vae", "vae-whole", *extra)
    assert (result.exit_code, type(result.exception)) == (1, SystemExit), "it is told, not raised"
    assert message in result.output


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_train_the_model_of_one(runs: Runs, stage: str) -> None:
    """Rounding alone may differ, so far as 20 steps of Adam let it grow."""
    # Dropout masks are each process's own, so they are left out of the comparison.
    plain = ("--set", "unet.dropout=0.0", "--images")
    two = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = runs.start(stage, f"{stage}-two", *plain, "320", launcher=two)
    made = [
        runs.trained(stage, f"{stage}-one", *plain, "320"),
        runs.trained(stage, f"{stage}-start", *plain, "16"),
    ]
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    one, start, both = (
        torch.cat([t.flatten() for _, t in sorted(weights.items())])
        for weights in (*made, runs.weights(stage, f"{stage}-two"))
    )
    assert (both - one).norm() < 0.01 * (one - start).norm()


def test_a_failed_write_keeps_the_checkpoint_before_it(tmp_path: Path) -> None:
    state = tmp_path / "state.pt"
    save_state(state, {"step": 1})
    with pytest.raises(Exception, match="pickle"):
        save_state(state, {"step": 2, "bad": lambda: None})
    assert torch.load(state, weights_only=True) == {"step": 1}


def test_a_run_that_goes_on_forgets_what_was_logged_beyond_its_checkpoint(tmp_path: Path) -> None:
    options = Optimisation(images=2000, batch_size=10, log_every=50)
    with Log(tmp_path, 0, options) as log:
        for step in range(1, 121):
            log.step(step, {"loss": 1.0})
    path = tmp_path / "log.jsonl"
    path.write_text(path.read_text() + '{"step": 150, "ima')  # torn by a kill
    with Log(tmp_path, 60, options) as log:
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [50]
        for step in range(61, 151):
            log.step(step, {"loss": 2.0})
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(50, 1), (100, 2), (150, 2)]


def test_resuming_nothing_is_an_error(runs: Runs) -> None:
    result = runs.run("vae", "nowhere", "--resume")
    assert result.exit_code == 1
    assert "holds no run" in result.output
    assert issubclass(TrainingError, ValueError), "the command line shows these in one line"
