"""What other services call our samplers and spacings."""

import re
from collections.abc import Mapping

from app.errors import InvalidRequest
from models.bounds import brief
from models.sampling import DEFAULT_SPACING, SAMPLERS, SPACINGS

_LONGEST = 80  # characters of a name
_NO_LETTER = re.compile(r"[^a-z0-9+]")
_PLUS = re.compile(r"\+\+|pp")
# What is left of a name without "scheduler", "k_", and everything but letters and digits.
_OTHERS = {
    "eulerdiscrete": "euler",
    "eulerancestral": "euler_a",
    "eulerancestraldiscrete": "euler_a",
    "heundiscrete": "heun",
    "lmsdiscrete": "lms",
    "dpmsolvermultistep": "dpmpp_2m",
    "unipcmultistep": "unipc",
    "plms": "pndm",
}


def sampler_of(text: str, field: str) -> tuple[str, str | None]:
    """The sampler that a name means, and the spacing if the name has one.

    A name is ours ("dpmpp_2m"), AUTOMATIC1111's ("DPM++ 2M Karras"), a class of diffusers
    ("EulerDiscreteScheduler") or one of Replicate's ("K_EULER", "KarrasDPM").

    Raises:
        InvalidRequest: it means none of ours; `field` is wrong.
    """
    name, spacing = _plain(text), None
    if name == "karrasdpm":
        return "dpmpp_2m", "karras"
    for other in SPACINGS[1:]:
        if name.endswith(other):
            name, spacing = name.removesuffix(other), other
    if (found := _NAMED.get(name)) is None:
        allowed = ", ".join(sampler.title for sampler in SAMPLERS.values())
        raise InvalidRequest({field: f"unknown sampler {brief(text)}; allowed: {allowed}"})
    return found, spacing


def spacing_of(text: str, field: str) -> str | None:
    """The spacing that AUTOMATIC1111's name of a scheduler means; None if it leaves that open.

    Raises:
        InvalidRequest: it means none of ours; `field` is wrong.
    """
    name = _plain(text)
    if name in ("automatic", ""):
        return None
    if name in ("uniform", "normal"):
        return DEFAULT_SPACING
    if name in SPACINGS:
        return name
    allowed = ", ".join(["Automatic", "Uniform", *(name.capitalize() for name in SPACINGS[1:])])
    raise InvalidRequest({field: f"unknown scheduler {brief(text)}; allowed: {allowed}"})


def _plain(text: str) -> str:
    bare = _NO_LETTER.sub("", text[:_LONGEST].strip().lower().removeprefix("k_"))
    return _PLUS.sub("", bare).removesuffix("scheduler")


_NAMED: Mapping[str, str] = {
    **{_plain(sampler.name): sampler.name for sampler in SAMPLERS.values()},
    **{_plain(sampler.title): sampler.name for sampler in SAMPLERS.values()},
    **_OTHERS,
}
