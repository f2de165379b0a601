"""What other services call our samplers and spacings."""

import re
from collections.abc import Mapping

from app.errors import InvalidRequest
from models.bounds import brief
from models.sampling import DEFAULT_SPACING, SAMPLERS, SPACINGS

_LONGEST = 80  # characters of a name
_K = re.compile(r"^k[ _-]")
_NO_LETTER = re.compile(r"[^a-z0-9+]")
_PLUS = re.compile(r"\+\+|pp")
# Names without "scheduler", "k_", and everything but letters and digits.
_OTHERS = {
    "eulerdiscrete": "euler",
    "eulerancestral": "euler_a",
    "eulerancestraldiscrete": "euler_a",
    "heundiscrete": "heun",
    "klms": "lms",
    "lmsdiscrete": "lms",
    "dpmsolvermultistep": "dpmpp_2m",
    "dpm2msdegpu": "dpmpp_2m_sde",
    "dpm2sancestral": "dpmpp_2s_a",
    "unipcmultistep": "unipc",
    "plms": "pndm",
}
_ANY = ("", "automatic", "auto", "default", "none")  # leaves it to the model
_EVEN = ("normal", "simple", "uniform", "sgmuniform", "ddimuniform", "ddim")  # no other curve


def sampler_of(text: str, field: str) -> tuple[str | None, str | None]:
    """The sampler that a name means, None if it leaves that open; the spacing if the name has one.

    A name is ours ("dpmpp_2m"), AUTOMATIC1111's ("DPM++ 2M Karras"), a class of diffusers
    ("EulerDiscreteScheduler") or one of Replicate's ("K_EULER", "KarrasDPM").

    Raises:
        InvalidRequest: it means none of ours; `field` is wrong.
    """
    name = _plain(text)
    if name in _ANY:
        return None, None
    if name == "karrasdpm":
        return "dpmpp_2m", "karras"
    if name in _NAMED:
        return _NAMED[name], None
    for ending in (*SPACINGS[1:], *_EVEN, *_ANY[1:]):
        if (found := _NAMED.get(name.removesuffix(ending))) is not None:
            return found, _SPACINGS[ending]
    allowed = ", ".join(sampler.title for sampler in SAMPLERS.values())
    raise InvalidRequest({field: f"unknown sampler {brief(text)}; allowed: {allowed}"})


def spacing_of(text: str, field: str) -> str | None:
    """The spacing that AUTOMATIC1111's name of a scheduler means; None if it leaves that open.

    Raises:
        InvalidRequest: it means none of ours; `field` is wrong.
    """
    name = _plain(text)
    if name not in _SPACINGS:
        allowed = ", ".join(["Automatic", "Uniform", *map(str.capitalize, SPACINGS[1:])])
        raise InvalidRequest({field: f"unknown scheduler {brief(text)}; allowed: {allowed}"})
    return _SPACINGS[name]


def _plain(text: str) -> str:
    bare = _NO_LETTER.sub("", _K.sub("", text[:_LONGEST].strip().lower(), count=1))
    return _PLUS.sub("", bare).removesuffix("scheduler")


_SPACINGS: Mapping[str, str | None] = {
    **dict.fromkeys(_ANY, None),
    **dict.fromkeys(_EVEN, DEFAULT_SPACING),
    **{name: name for name in SPACINGS[1:]},
}
_NAMED: Mapping[str, str] = {
    **{_plain(sampler.name): sampler.name for sampler in SAMPLERS.values()},
    **{_plain(sampler.title): sampler.name for sampler in SAMPLERS.values()},
    **_OTHERS,
}
