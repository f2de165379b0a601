"""The engine without a server: one request, from noise to pixels, in this process."""

from collections.abc import Callable

from app.engine.errors import GenerationFailed
from app.engine.job import Request, SamplingParams
from app.engine.lane import Lane
from app.engine.model_runner import ModelRunner
from app.engine.results import Pixels
from models.conditioning import Cut

_SLOTS = 64


def draw(
    runner: ModelRunner,
    params: SamplingParams,
    tell: Callable[[int], object] = lambda _: None,
    tell_cut: Callable[[Cut], object] = lambda _: None,
) -> list[Pixels]:
    """The images of a request, with the pixels that the server would send.

    The runner is that of the request's model and size. `tell` is called after each tick with the
    evaluations it made; each image has `params.evaluations` of them. `tell_cut` is called at the
    end with the tokens of its prompts that did not fit.

    Raises:
        GenerationFailed: out of memory even for one image, or an image is not finite.
    """
    lane = Lane(runner, slots=min(params.n, _SLOTS))
    job = lane.submit(0, Request(params))
    while not job.ended:
        plan = lane.plan()
        before = sum(image.evaluation for image in plan.riding)
        ended = lane.run(plan)
        tell(sum(image.evaluation for image in plan.riding) - before)
        ended += lane.deliver(wait=not lane.busy)
        for end in ended:
            if end.reason is not None:
                raise GenerationFailed(end.reason)
    tell_cut(job.cut)
    return [job.images[k] for k in range(params.n)]
