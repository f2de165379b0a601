"""From a dialect's values to a request: lenient in, the native request underneath."""

from collections.abc import Mapping
from typing import Any

from app.engine.job import Request
from app.errors import InvalidRequest
from app.generation import Studio
from app.schemas.prompts import subject_of
from app.schemas.requests import GenerateRequest
from app.schemas.samplers import sampler_of, spacing_of
from models.sampling import SAMPLERS, Sampler


def to_request(
    studio: Studio,
    prompt: str,
    values: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    prompt_field: str = "prompt",
    within: str = "",
) -> Request:
    """What a dialect asks for, as the engine takes it.

    Clients send fields that they do not care about, so some mean nothing where a native request
    would be refused: a size to a model that has one, eta or a spacing to a sampler that takes none,
    a negative prompt or a clip skip to a model that takes classes.

    Args:
        studio: who asks, and the models that are loaded.
        prompt: what the image shows; it names a class, where the model has classes.
        values: native field -> value, samplers and spacings by any name they have; None is left
            out, and so is a seed of -1.
        names: native field -> what the dialect calls it, for errors.
        prompt_field: what the dialect calls the prompt.
        within: the object that has the values, where they are not at the top of the body.

    Raises:
        UnknownModel, InvalidRequest: in the dialect's names.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("seed") == -1:  # random, to those who take it from Stable Diffusion
        del given["seed"]
    model = studio.models.get(str(given.get("model", next(iter(studio.models)))))
    try:
        named, ending = sampler_of(given.get("sampler", ""), "sampler")
        if model is not None:  # else the request says that it is unknown
            subject, meant = subject_of(prompt, model, prompt_field)
            given[subject] = meant
            sampler = SAMPLERS[named or model.sampler]
            given["spacing"] = _spacing(sampler, ending, given.get("spacing"))
            ignored = {
                "eta": not sampler.eta,
                "width": model.sizes.fixed,
                "height": model.sizes.fixed,
                "negative_prompt": model.prompts is None,
                "clip_skip": model.prompts is None,
            }
            given = {name: value for name, value in given.items() if not ignored.get(name)}
        given["sampler"] = named
        request = GenerateRequest.parse(given, strict=False)
        return request.to_request(studio.models, studio.asker, studio.permit.limits)
    except InvalidRequest as error:
        names = {"prompt": prompt_field, **names}
        wrong = {names.get(name, name): detail for name, detail in error.wrong.items()}
        raise InvalidRequest(wrong, "" if prompt_field in wrong else within) from error


def _spacing(sampler: Sampler, ending: str | None, scheduler: str | None) -> str | None:
    """The spacing that a sampler's name ends in, or that a dialect's scheduler means."""
    if not sampler.spaced:
        return None
    return ending or spacing_of(scheduler or "", "spacing")
