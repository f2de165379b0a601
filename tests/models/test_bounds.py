"""Bounds: wide enough for the models there are, and messages that stay short."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.bounds import Length, Range, brief
from models.conditioning import Classes
from models.config import AutoencoderKLConfig, DDIMConfig, UNet2DConfig
from models.library import find
from models.schedule import alpha_bars, timestep_pairs

# Published configurations; of those with other classes of blocks, as much as fits.
UNETS: dict[str, dict[str, Any]] = {
    "google/ddpm-church-256": {
        "sample_size": 256,
        "block_out_channels": (128, 128, 256, 256, 512, 512),
        "down_block_types": (*("DownBlock2D",) * 4, "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", *("UpBlock2D",) * 4),
        "attention_head_dim": None,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "CompVis/ldm-celebahq-256": {
        "sample_size": 64,
        "block_out_channels": (224, 448, 672, 896),
        "attention_head_dim": 32,
    },
    "the size of stable-diffusion-xl": {
        "sample_size": 128,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 64,
    },
    "ImageNet-21k": {"num_class_embeds": 21_844, "sample_size": 64},
}
VAES: dict[str, dict[str, Any]] = {
    "stable-diffusion-xl": {
        "sample_size": 1024,
        "scaling_factor": 0.13025,
    },
    "flux": {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159},
}


@pytest.mark.parametrize("values", UNETS.values(), ids=UNETS.keys())
def test_real_unets_are_within_bounds(values: dict[str, Any]) -> None:
    UNet2DConfig(**values)


@pytest.mark.parametrize("values", VAES.values(), ids=VAES.keys())
def test_real_vaes_are_within_bounds(values: dict[str, Any]) -> None:
    AutoencoderKLConfig(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        **values,
    )


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [1, 2, 10_000])
def test_the_longest_and_shortest_schedules_are_finite(schedule: Any, steps: int) -> None:
    config = DDIMConfig(num_train_timesteps=steps, beta_schedule=schedule)
    config = replace(config, beta_start=1e-5, beta_end=0.002)
    alpha_bar = alpha_bars(config)
    assert alpha_bar.isfinite().all()
    assert ((alpha_bar[:-1] > 0) & (alpha_bar[:-1] < 1)).all()
    for spacing in ("leading", "trailing", "linspace"):
        pairs = timestep_pairs(replace(config, timestep_spacing=spacing, steps_offset=9999), steps)
        assert {t for t, _ in pairs} == set(range(steps))


@pytest.mark.parametrize(
    "value",
    [
        "x" * 10**6,
        b"x" * 10**6,
        ["x" * 10**6] * 100,
        {"x" * 10**6: {"y" * 10**6: "z"}},
        {str(i): [[[[[i]]]]] for i in range(10**5)},
        10**5000,
        -(10**300),
        ("\x1b[31m\n\ud800",) * 100,
        ValueError("x" * 10**6),
        [[[[[[[[]]]]]]]] * 1000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_shown_in_a_hundred_printable_characters(value: Any) -> None:
    assert len(brief(value)) <= 100
    assert brief(value).isprintable()


@pytest.mark.parametrize("value", [0, 7, -3, 0.1, True, None, "word", [1, 2], {"a": 1}, math.nan])
def test_a_short_value_is_shown_whole(value: Any) -> None:
    assert brief(value) == repr(value)


def test_ranges_and_lengths() -> None:
    closed, opened = Range(1, 10), Range(1e-6, 1.5, above=True)
    for value in (1, 10, 5.5):
        closed.check("n", value)
    for wrong in (0, 11, 0.999, math.nan, math.inf, -math.inf, 10**400):
        with pytest.raises(ValueError, match=r"n is .*; allowed: 1 to 10"):
            closed.check("n", wrong)
    opened.check("n", 1.1e-6)
    with pytest.raises(ValueError, match=r"allowed: above 0.000001, up to 1.5"):
        opened.check("n", 1e-6)
    Length(2, 2).check("n", (1, 2))
    with pytest.raises(ValueError, match="n has 3 values; allowed: 2 values"):
        Length(2, 2).check("n", (1, 2, 3))


def test_many_long_class_names_are_not_all_told() -> None:
    names = tuple(f"{i:05}" + "x" * 251 for i in range(30_000))
    classes = Classes.of(names, 30_001)
    with pytest.raises(ValueError, match=r"an index from 0 to 29999, or null") as caught:
        classes.index("y" * 10**6)
    assert len(str(caught.value)) <= 500
    with pytest.raises(ValueError, match="unknown class a number of"):
        classes.index(10**5000)
    assert classes.index(29_999) == classes.index(names[-1]) == 29_999


@pytest.mark.parametrize("name", ["x" * 10**6, "\0", "\ud800", "/dev/zero", "~nobody/x", "\n"])
def test_no_name_is_too_wild_to_be_looked_for(name: str) -> None:
    with pytest.raises(ValueError, match=r"no model .*; shipped: .*digits") as caught:
        find(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize("name", [b"\xff", b"two\nlines"])
def test_a_folder_that_cannot_be_told_of_is_refused(name: bytes, tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    with pytest.raises(ValueError, match="its path is not printable") as caught:
        find(str(folder))
    assert str(caught.value).isprintable()
