"""Whole pipelines of Stable Diffusion against diffusers', from a folder that it saved."""

import functools
import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.files import CheckpointError
from models.pipeline import LatentDiffusion
from models.samplers import trajectory
from models.sampling import SAMPLERS
from tests import stable
from tests.stable import DRAWN, NEGATIVE, PROMPTS, SIDE

Pixels = "np.ndarray[Any, Any]"
Opened = Callable[[str], tuple[LatentDiffusion, Any]]
SAMPLED = ("ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_sde", "unipc", "pndm", "lcm")
CASES = [(name, sampler) for name in DRAWN for sampler in SAMPLED]
CASES.remove(("2.1", "pndm"))  # diffusers' has no zero-terminal SNR
SIZES = ((SIDE, 2 * SIDE), (2 * SIDE, SIDE))  # (width, height)
SEEDS = (11, 12, 13, 14)


@pytest.fixture(scope="module")
def both(stable_folder: Callable[[str], Path]) -> Opened:
    """Our pipeline and diffusers', of one folder."""

    @functools.cache
    def opened(name: str) -> tuple[LatentDiffusion, Any]:
        folder = stable_folder(name)
        return LatentDiffusion.open(folder, block_rows=4), stable.opened(folder)

    return opened


def drawn(
    model: LatentDiffusion,
    prompts: Sequence[str] = PROMPTS,
    seeds: Sequence[int] = SEEDS,
    **options: Any,
) -> Pixels:
    """Ours, (B, H, W, 3) uint8."""
    return np.stack([np.asarray(picture) for picture in model.images(prompts, seeds, **options)])


def furthest(ours: Pixels, theirs: Pixels) -> int:
    assert ours.shape == theirs.shape
    return int(np.abs(ours.astype(int) - theirs).max())


def check_pictures(pixels: Pixels) -> None:
    """Pictures that could differ: neither flat nor saturated, and each another."""
    assert pixels.std(axis=(1, 2)).min() > 10
    assert np.isin(pixels, (0, 255)).mean() < 0.1
    assert min(furthest(one, two) for one, two in itertools.pairwise(pixels)) > 30


def compare(
    both: tuple[LatentDiffusion, Any],
    prompts: Sequence[str] = PROMPTS,
    *,
    sampler: str | None = None,
    spacing: str = "default",
    size: tuple[int, int] = (SIDE, SIDE),
    negative: str | None = NEGATIVE,
    steps: int = 4,
    guidance_scale: float = 4.0,
    clip_skip: int = 0,
    eta: float = 0.0,
) -> Pixels:
    """Draw with both, by their own sampler if None, and return what both drew."""
    model, pipeline = both
    own, given = pipeline.scheduler, {}
    if sampler is not None:
        placed = {} if spacing == "default" else {f"use_{spacing}_sigmas": True}
        pipeline.scheduler = stable.scheduled(pipeline, sampler, **placed)
        given = {"sampler": sampler, "spacing": spacing}
    try:
        theirs = stable.draw(
            pipeline,
            prompts,
            SEEDS[: len(prompts)],
            size=size,
            negative=negative,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            clip_skip=clip_skip or None,
            eta=eta,
        )
    finally:
        pipeline.scheduler = own
    ours = drawn(
        model,
        prompts,
        SEEDS[: len(prompts)],
        width=size[0],
        height=size[1],
        negative_prompt=negative or "",
        steps=steps,
        guidance_scale=guidance_scale,
        clip_skip=clip_skip,
        eta=eta,
        **given,
    )
    assert furthest(ours, theirs) <= 1
    return ours


@pytest.mark.parametrize("name", DRAWN)
def test_every_family_draws_what_diffusers_draws(name: str, both: Opened) -> None:
    """English, German, Chinese and emoji in one batch; guided, away from a negative prompt."""
    check_pictures(compare(both(name)))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sampler"), CASES)
def test_every_sampler(name: str, sampler: str, both: Opened) -> None:
    spacing = "karras" if sampler.startswith("dpmpp") else "default"
    eta = 0.7 if SAMPLERS[sampler].eta else 0.0
    for steps in (1, 5):
        compare(both(name), PROMPTS[:2], sampler=sampler, spacing=spacing, steps=steps, eta=eta)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_levels_by_the_request_s_spacing(name: str, both: Opened) -> None:
    """UniPC's exponential ones are not compared: diffusers begins at 998, rounding 998.9999 off."""
    for sampler, spacing in (("euler", "karras"), ("euler", "exponential"), ("unipc", "karras")):
        compare(both(name), PROMPTS[2:], sampler=sampler, spacing=spacing)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DRAWN)
def test_other_sizes(name: str, size: tuple[int, int], both: Opened) -> None:
    """SDXL reads the size as well."""
    made = compare(both(name), PROMPTS[1:], size=size)
    assert made.shape == (3, size[1], size[0], 3)
    check_pictures(made)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1.5, 9.0])
@pytest.mark.parametrize("name", DRAWN)
def test_guidance(name: str, scale: float, both: Opened) -> None:
    compare(both(name), PROMPTS[:2], guidance_scale=scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_an_absent_negative_prompt(name: str, both: Opened) -> None:
    """SDXL leads away from zeros then, and the others from the empty text."""
    absent = compare(both(name), negative=None)
    model, _ = both(name)
    how: dict[str, Any] = {"steps": 4, "guidance_scale": 4.0}
    assert np.array_equal(absent, drawn(model, **how)), "left out"
    assert furthest(absent, drawn(model, negative_prompt=NEGATIVE, **how)) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["1.5", "2.1"])
def test_an_empty_negative_prompt(name: str, both: Opened) -> None:
    compare(both(name), negative="")


@pytest.mark.slow
def test_an_sdxl_whose_absent_negative_prompt_is_the_empty_text(
    stable_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(stable_folder("SDXL"), tmp_path / "forced"))
    index = folder / "model_index.json"
    values = json.loads(index.read_text())
    assert values["force_zeros_for_empty_prompt"] is True
    index.write_text(json.dumps(values | {"force_zeros_for_empty_prompt": False}))
    pair = LatentDiffusion.open(folder, block_rows=2), stable.opened(folder)
    for negative in (None, ""):
        made = compare(pair, PROMPTS[:2], negative=negative)
    zeros = LatentDiffusion.open(stable_folder("SDXL"), block_rows=2)
    other = drawn(zeros, PROMPTS[:2], SEEDS[:2], steps=4, guidance_scale=4.0)
    assert furthest(made, other) > 10


@pytest.mark.slow
@pytest.mark.parametrize("clip_skip", [1, 2])
@pytest.mark.parametrize("name", DRAWN)
def test_clip_skip(name: str, clip_skip: int, both: Opened) -> None:
    """Of the prompt alone, as in diffusers; these encoders have two layers."""
    if (name, clip_skip) == ("SDXL", 2):
        with pytest.raises(ValueError, match="clip_skip is 2; allowed: up to 1"):
            drawn(both(name)[0], clip_skip=2)
        return
    made = compare(both(name), PROMPTS[:2], clip_skip=clip_skip)
    assert furthest(made, compare(both(name), PROMPTS[:2])) > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_prompts_that_are_odd_or_too_long(name: str, both: Opened) -> None:
    prompts = ("", "!" * 9 + " ein Hund!", "a cat, " * 60, " \n\tCAFÉ  déjà-vu 1234567 don't ")
    compare(both(name), prompts, negative="猫 " * 100)


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_an_image_is_the_same_bits_whatever_prompts_are_beside_it(name: str, both: Opened) -> None:
    model, _ = both(name)
    how: dict[str, Any] = {"steps": 3, "sampler": "euler_a", "negative_prompt": NEGATIVE}
    together = drawn(model, **how)
    for k, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        assert np.array_equal(together[k], drawn(model, [prompt], [seed], **how)[0])


@pytest.mark.slow
def test_a_distilled_network_draws_as_in_diffusers(both: Opened) -> None:
    """It is told the guidance, and evaluated once per step."""
    check_pictures(compare(both("LCM"), negative=None, guidance_scale=8.5))


LEAST = {"1.5": 256, "2.1": 384, "SDXL": 512}  # pixels of a side, where the own size is twice that


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
def test_one_file_draws_the_bits_of_its_folder(
    name: str, stable_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    """Whose scheduler and own size are as published, which is what is assumed of a file."""
    side = LEAST[name]
    folder = Path(shutil.copytree(stable_folder(name), tmp_path / name, copy_function=os.link))
    config = json.loads((folder / "unet/config.json").read_text())
    replace(folder / "unet/config.json", config | {"sample_size": 2 * side // 8})
    scheduler = stable.SHAPES[name].scheduler_file
    replace(folder / "scheduler/scheduler_config.json", scheduler)
    path = stable.save_file(name, tmp_path / "one.safetensors")
    file, other = (LatentDiffusion.open(place, block_rows=2) for place in (path, folder))
    assert file.image_size == other.image_size == (2 * side, 2 * side)
    for sampler in SAMPLERS:
        made = trajectory(file.schedule, sampler, 7), trajectory(other.schedule, sampler, 7)
        assert torch.equal(made[0].timesteps, made[1].timesteps), sampler
        assert torch.equal(made[0].coefficients, made[1].coefficients), sampler
    how: dict[str, Any] = {"steps": 2, "guidance_scale": 4.0, "width": side, "height": side}
    for negative in ("", NEGATIVE):
        pair = (
            drawn(each, PROMPTS[2:3], SEEDS[:1], negative_prompt=negative, **how)
            for each in (file, other)
        )
        assert np.array_equal(*pair)


def replace(path: Path, values: dict[str, Any]) -> None:
    """Write another file where there was a link to one."""
    path.unlink()
    path.write_text(json.dumps(values))


def test_an_inpainting_network_is_refused(stable_folder: Callable[[str], Path]) -> None:
    folder = stable_folder("inpainting")
    with pytest.raises(CheckpointError, match=r"unet.config\.json: .*9.*inpainting") as caught:
        LatentDiffusion.open(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_inpainting_file_is_refused(tmp_path: Path) -> None:
    path = stable.save_file("inpainting", tmp_path / "one.safetensors")
    with pytest.raises(CheckpointError, match=r"one\.safetensors.*9.*inpainting"):
        LatentDiffusion.open(path)


def test_the_first_noise_is_that_of_the_seed(both: Opened) -> None:
    model, _ = both("1.5")
    for size in ((SIDE, SIDE), (SIDE, 2 * SIDE)):
        expected, _ = stable.first_noise(7, size)
        made, _ = model.start(7, (4, size[1] // 8, size[0] // 8))
        assert torch.equal(made, expected)
