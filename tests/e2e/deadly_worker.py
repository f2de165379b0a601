"""The worker, and one request it does not survive: the fault that the tests inject."""

import os
import signal
from collections.abc import Sequence

from app.engine.job import Image
from app.engine.runner import Runner
from app.engine.worker import load_runners, main

DEADLY = 666  # a seed


def step(self: Runner, images: Sequence[Image], rows: int) -> None:
    if any(image.job.params.seed == DEADLY and image.evaluation == 3 for image in images):
        os.kill(os.getpid(), signal.SIGKILL)
    honest(self, images, rows)


if __name__ == "__main__":
    honest = Runner.step
    Runner.step = step  # type: ignore[method-assign]
    main(load_runners)
