"""The runner: slots in, pixels out, and images that are not finite told apart."""

import torch

from app.engine.job import Job, Params
from app.engine.runner import Runner
from app.engine.scheduler import Slot
from models.pipeline import LatentDiffusion, to_uint8

WANTED = Params("tiny", 1, 3, 2.0, 0.5, 7, 3)


def test_slots_step_to_the_images_of_the_plain_loop(tiny: LatentDiffusion) -> None:
    runner = Runner("tiny", tiny, "0" * 10)
    job = Job(1, WANTED)
    slots = [Slot(index, job, image) for index, image in ((5, 0), (0, 1), (2, 2))]
    for slot in slots:
        runner.start(slot)
    while not slots[0].finished:
        runner.step(slots)
        for slot in slots:
            slot.step += 1
    expected = tiny.sample([1] * 3, [7, 8, 9], steps=3, guidance_scale=2.0, eta=0.5)
    for made, image in zip(runner.finish(slots), to_uint8(expected), strict=True):
        assert made is not None
        assert made.data == image.numpy().tobytes()


def test_an_image_that_is_not_finite_is_none_and_its_neighbours_are_whole(
    tiny: LatentDiffusion,
) -> None:
    runner = Runner("tiny", tiny, "0" * 10)
    slots = [Slot(index, Job(index, WANTED), 0) for index in range(3)]
    for slot in slots:
        runner.start(slot)
    runner._rows[0].x.fill_(torch.nan)
    runner._rows[2].x.fill_(torch.inf)
    first, second, third = runner.finish(slots)
    assert (first, third) == (None, None)
    assert second is not None
