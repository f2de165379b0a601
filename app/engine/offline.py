"""The engine without a server: one request, from noise to pixels, in this process."""

from collections.abc import Callable

from app.engine.errors import GenerationFailed, OutOfMemory
from app.engine.job import Job, Request, SamplingParams
from app.engine.results import Pixels
from app.engine.scheduler import Scheduler
from app.engine.worker import ModelRunner

_SLOTS = 64


def draw(
    runner: ModelRunner, params: SamplingParams, tell: Callable[[int], object] = lambda _: None
) -> list[Pixels]:
    """The images of a request, with the pixels that the server would send.

    `tell` is called after each tick with the evaluations it made; each image has
    `params.evaluations` of them.

    Raises:
        GenerationFailed: out of memory even for one image, or an image is not finite.
    """
    scheduler, job = Scheduler(min(params.n, _SLOTS), runner.info.costs), Job(0, Request(params))
    scheduler.submit(job)
    pending = 0
    while not job.ended:
        plan = scheduler.plan()
        for image in plan.admitted:
            runner.start(image)
        if plan.riding:
            try:
                runner.step(plan.riding, plan.rows)
            except OutOfMemory as error:
                if scheduler.stumble(plan, memory=True):
                    raise GenerationFailed(f"out of memory: {error}") from error
                continue
            tell(len(plan.riding))
            finished = scheduler.advance(plan)
            runner.decode(finished)
            pending += len(finished)
        for image, made in runner.decoded(wait=pending > 0 and not scheduler.busy):
            pending -= 1
            if isinstance(made, str):
                raise GenerationFailed(made)
            scheduler.deliver(image, made)
    return [job.images[k] for k in range(params.n)]
