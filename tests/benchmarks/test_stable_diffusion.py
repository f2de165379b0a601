"""benchmarks/stable_diffusion: both sides draw the same requests; what is reduced, and how."""

import io
import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks.peers.text_to_image import SCHEDULERS, Body, Pictures
from benchmarks.sending import Answer, Run
from benchmarks.servers import OURS
from benchmarks.stable_diffusion.bare import params
from benchmarks.stable_diffusion.folders import made
from benchmarks.stable_diffusion.full import Drawn
from benchmarks.stable_diffusion.report import markdown
from benchmarks.stable_diffusion.scaled import Scaled, Served, figures, steady
from benchmarks.stable_diffusion.servers import DTYPES, PEER
from benchmarks.stable_diffusion.workload import GUIDANCE_SCALES, SAMPLERS, STEPS, workload
from benchmarks.workload import rows
from models.pipeline import LatentDiffusion
from models.sampling import SAMPLERS as OURS_BY_NAME

SIDE = 64  # pixels of the tiny shape's images


def test_every_window_has_the_same_mix_of_work() -> None:
    """All pairs of steps and guidance scale come before one comes again."""
    pairs = set(itertools.product(STEPS, GUIDANCE_SCALES))
    asked = workload(3)
    for _ in range(3):
        some = list(itertools.islice(asked, len(pairs)))
        assert {(one.steps, one.guidance_scale) for one in some} == pairs
    first, again = ([*itertools.islice(workload(3), 50)] for _ in range(2))
    assert first == again
    assert len({one.seed for one in first}) == 50


def test_both_sides_compute_the_same_rows_for_a_request() -> None:
    """Samplers make one evaluation per step, and the peer knows each of them."""
    assert set(SCHEDULERS) == set(SAMPLERS)
    assert all(OURS_BY_NAME[name].evaluations(20) == 20 for name, _ in SAMPLERS)


@pytest.mark.slow
def test_both_sides_draw_the_same_picture_of_the_same_folder(tmp_path: Path) -> None:
    """Noise is drawn alike, so pictures in float32 differ by rounding alone."""
    folder = made("tiny", tmp_path)
    assert made("tiny", tmp_path) == folder
    ours, theirs = LatentDiffusion.open(folder), Pictures(folder, torch.float32, "NCHW")
    for k, (sampler, spacing) in enumerate(SAMPLERS):
        body = Body(
            prompt="a cat", negative_prompt="blurry", steps=5, guidance_scale=5.0 if k else 1.0,
            sampler=sampler, spacing=spacing, seed=k,
        )  # fmt: skip
        (drawn,) = ours.images(
            ["a cat"], [k], negative_prompt="blurry", steps=5, guidance_scale=body.guidance_scale,
            sampler=sampler, spacing=spacing,
        )  # fmt: skip
        with Image.open(io.BytesIO(theirs.draw(body))) as picture:
            pairs = zip(drawn.tobytes(), picture.convert("RGB").tobytes(), strict=True)
            assert picture.size == (SIDE, SIDE)
            assert max(abs(a - b) for a, b in pairs) <= 1, sampler


def test_only_what_the_engine_ran_in_the_window_counts() -> None:
    """Ten rows per second from second 2 on; the window is from 4 to 8."""
    samples = [(second / 2, max(5 * (second - 4), 0)) for second in range(40)]
    assert steady(samples, warmup=1.5, seconds=4.0) == 10


def test_images_and_rows_are_counted_from_answer_to_answer() -> None:
    ends = [-1.0, 1.0, 3.0, 5.0, 9.0]  # the last after the window
    answers = [Answer(10, 5.0, end - 2, 2.0, 200) for end in ends]
    counted = figures(Run(answers, window=6.0), ran=None)
    assert counted.images == 3 / 6
    assert counted.rows == 3 * rows(10, 5.0) / 6
    assert (counted.p50, counted.failed) == (2.0, 0)


def test_the_document_says_which_goals_are_reached() -> None:
    scaled = Scaled()
    for dtype in DTYPES:
        scaled.bare[dtype], scaled.bare_images[dtype] = [10.0, 10.0], [0.5, 0.5]
        ours = [Served(2.2, 60.0, 3.0, 4.0, 0, ran) for ran in (9.4, 9.8)]
        peer = [Served(1.0, 30.0, 8.0, 9.0, 0), Served(1.0, 30.0, None, None, 1)]
        scaled.served[dtype] = {OURS: ours, PEER: peer}
    full = {
        name: {dtype: Drawn([seconds], 2 << 30, 60.0) for dtype in DTYPES}
        for name, seconds in ((OURS, 4.0), (PEER, 10.0))
    }
    text = markdown({"date": "today"}, scaled, full)
    assert "| rows/s, served by without a server, float32 | 0.960 | at least 0.95 | yes |" in text
    assert "| images/s, Darkroom by diffusers, float32 | 2.200 | at least 2 | yes |" in text
    assert "| images/s, Darkroom by diffusers, bfloat16 | 2.200 | at least 2.3 | no |" in text
    ratio = "s per image, Darkroom in bfloat16 by diffusers in float32"
    assert f"| {ratio} | 0.400 | at most 0.3 | no |" in text
    assert "| Darkroom | float32 | 4.00 | 4.00 to 4.00 | 2.00 | 60 |" in text


@pytest.mark.slow
def test_the_loop_without_a_server_is_asked_for_what_the_server_is(tmp_path: Path) -> None:
    from app.engine.runner import Runner
    from app.engine.wire import Load

    folder = made("tiny", tmp_path)
    load = Load({}, "cpu", "float32", "eager", compile=False, slots=4, rows=None)
    info = Runner.open("tiny", folder, load).info
    for asked, wanted in itertools.islice(zip(workload(1), params(info, 1), strict=False), 20):
        assert wanted.work == rows(asked.steps, asked.guidance_scale)
        assert (wanted.width, wanted.seed) == (SIDE, asked.seed)
        prompt = wanted.condition.prompt
        assert prompt is not None
        assert prompt.text == asked.prompt
