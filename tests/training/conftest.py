"""Small data sets on disk and a recipe that trains on them in seconds."""

import gzip
from pathlib import Path

import numpy as np
import pytest

RECIPE = """
[data]
source = "mnist"
size = 16

[vae]
block_out_channels = [8, 16]
layers_per_block = 1
latent_channels = 2
norm_num_groups = 4

[unet]
block_out_channels = [8, 16]
layers_per_block = 1
norm_num_groups = 4
dropout = 0.1

[scheduler]
beta_schedule = "scaled_linear"
beta_start = 0.0015
beta_end = 0.0195
rescale_betas_zero_snr = true
prediction_type = "v_prediction"
timestep_spacing = "trailing"
clip_sample = false

[train.vae]
images = 1_600
batch_size = 16
warmup_steps = 10
checkpoint_every = 25

[train.diffusion]
images = 1_600
batch_size = 16
warmup_steps = 10
checkpoint_every = 25
"""


def write_idx(path: Path, values: np.ndarray) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`mnist/` with 64 training and 40 test images of 14 x 14: a bar whose place is its class."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "mnist").mkdir()
    draw = np.random.default_rng(0)
    for prefix, count in (("train", 64), ("t10k", 40)):
        labels = np.arange(count) % 10
        images = draw.integers(0, 40, (count, 14, 14))
        for image, label in zip(images, labels, strict=True):
            image[label + 2] = 255
        write_idx(folder / "mnist" / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / "mnist" / f"{prefix}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(RECIPE)
    return path
