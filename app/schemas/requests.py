"""Requests of the native API, and the step from one to what the engine takes."""

import difflib
import functools
import secrets
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.access.limits import NO_LIMITS, RequestLimits
from app.engine.job import (
    DEFAULT_STEPS,
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_PREVIEWS,
    MAX_PRIORITY,
    MAX_SEED,
    MAX_STEPS,
    MAX_TIMEOUT,
    MIN_PRIORITY,
    Asker,
    Request,
    SamplingParams,
)
from app.engine.model_info import ModelInfo
from app.errors import LONGEST_NAME, MOST_ERRORS, InvalidRequest, model_of
from app.schemas.prompts import asked_of
from models.conditioning import MAX_PROMPT, Condition, Prompt
from models.sampling import SAMPLERS, SamplerName, Spacing
from models.sizes import MAX_SIDE

_RANDOM_SEEDS = 2**32  # short enough to read aloud, and exact in JavaScript
DEFAULT_PREVIEWS = 4

# Other names that the field has for the same things.
ALIASES = {
    "num_inference_steps": "steps",
    "sampling_steps": "steps",
    "cfg_scale": "guidance_scale",
    "num_images": "n",
    "num_images_per_prompt": "n",
    "num_outputs": "n",
    "class_label": "class",
    "class_labels": "class",
}
# What other services call a prompt.
_PROMPTS = ("prompt", "prompts", "positive_prompt", "text_prompt", "text", "inputs", "input")
ASKING = ("class", "prompt", "negative_prompt", "clip_skip")  # a model takes one kind of them
MAX_CLIP_SKIP = 64  # layers; no text encoder has more, and a model's own number bounds them, too
_INSTEAD = {"scheduler": "'sampler' and 'spacing'", "size": "'width' and 'height'"}
_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "string": "a string",
    "boolean": "true or false",
    "object": "an object",
    "null": "null",
}


Text = Annotated[str, Field(max_length=MAX_PROMPT, pattern=r"^[^\u0000]*$")]


class GenerateRequest(BaseModel):
    """What to draw. Every field may be left out but `class`, where the model insists on one.

    A model takes either a class or a prompt.
    """

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        json_schema_extra={
            "examples": [
                {"class": "7", "steps": 50, "seed": 1},
                {"prompt": "a photo of a cat", "steps": 20, "seed": 1},
            ]
        },
    )

    class_: str | int | None = Field(
        None, alias="class", description="Name or index of a class; null for any class."
    )
    steps: int = Field(
        DEFAULT_STEPS,
        ge=1,
        le=MAX_STEPS,
        description="Steps of the sampler; at most as many as the model has timesteps.",
    )
    sampler: SamplerName | None = Field(None, description="The model's default if absent.")
    spacing: Spacing | None = Field(
        None,
        description="How noise levels are spaced. If absent, the model's, where the sampler can.",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=MAX_GUIDANCE_SCALE,
        allow_inf_nan=False,
        description="Classifier-free guidance scale; 1 means none. The model's default if absent.",
    )
    guidance_interval: list[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]] = Field(
        [0.0, 1.0],
        min_length=2,
        max_length=2,
        description="Which part of the evaluations is guided, as fractions from 0 to 1.",
    )
    eta: float = Field(
        0.0,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Noise of the sampler `ddim`: 0 for none, 1 for as much as DDPM.",
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Image k uses seed + k. Random if absent."
    )
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="Number of images.")
    width: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="Pixels; the model's own size if absent."
    )
    height: int | None = Field(
        None, ge=1, le=MAX_SIDE, description="Pixels; the model's own size if absent."
    )
    prompt: Text | None = Field(
        None, description="What the image shows, for models that take prompts; empty if absent."
    )
    negative_prompt: Text | None = Field(
        None, description="What guidance leads away from; without guidance it changes nothing."
    )
    clip_skip: int | None = Field(
        None,
        ge=0,
        le=MAX_CLIP_SKIP,
        description="How many of the text encoder's last layers are left out; 0 if absent.",
    )
    model: str | None = Field(None, description="A name from /models; the default model if absent.")
    priority: int = Field(
        0,
        ge=MIN_PRIORITY,
        le=MAX_PRIORITY,
        description="A request with a higher priority starts first.",
    )
    timeout: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT,
        allow_inf_nan=False,
        description="Deadline in seconds; the server's default if absent.",
    )
    previews: int = Field(
        DEFAULT_PREVIEWS,
        ge=0,
        le=MAX_PREVIEWS,
        description="In an event stream: number of previews per image.",
    )

    @classmethod
    def parse(
        cls,
        values: Mapping[str, Any],
        *,
        strict: bool = True,
        models: Mapping[str, ModelInfo] = MappingProxyType({}),
    ) -> Self:
        """Check values by name.

        Args:
            values: the fields.
            strict: whether numbers may not be text, as forms have them.
            models: those loaded; another name of a prompt is told what they take.

        Raises:
            InvalidRequest: naming every wrong field and what is allowed.
        """
        named, wrong = _named(values, models)
        for name, value in named.items():  # 20.0 is an integer to JSON Schema, and not to pydantic
            if isinstance(value, float) and value.is_integer():
                named[name] = int(value)
        if not strict and isinstance(interval := named.get("guidance_interval"), str):
            named["guidance_interval"] = interval.split(",")
        try:
            request = cls.model_validate(named, strict=strict)
        except ValidationError as error:
            allowed = allowed_values()
            for entry in error.errors():
                name = str(entry["loc"][0])
                wrong.setdefault(name, f"must be {allowed[name]}")
        if wrong:
            raise InvalidRequest(wrong)
        return request

    def to_request(
        self, models: Mapping[str, ModelInfo], asker: Asker, limits: RequestLimits = NO_LIMITS
    ) -> Request:
        """What the engine takes; raises as `to_params` does."""
        params = self.to_params(models, limits)
        return Request(params, self.priority, self.timeout, self.previews, asker)

    def to_params(
        self, models: Mapping[str, ModelInfo], limits: RequestLimits = NO_LIMITS
    ) -> SamplingParams:
        """Choose the model, fill in its defaults and check what depends on it.

        Raises:
            UnknownModel, InvalidRequest: naming the field and what is allowed.
            EngineUnavailable: the model did not load.
        """
        name = next(iter(models)) if self.model is None else self.model
        info = model_of(name, models)
        asked = "steps" in self.model_fields_set
        steps = self.steps if asked else min(self.steps, info.max_steps, limits.steps)
        if steps > info.max_steps:
            most = f"must be at most {info.max_steps} for model {name!r}"
            raise InvalidRequest({"steps": most})
        start, end = self.guidance_interval
        if start > end:
            raise InvalidRequest({"guidance_interval": "must begin before it ends"})
        scale = info.guidance_scale if self.guidance_scale is None else self.guidance_scale
        sampler, spacing = self._sampler(info)
        width, height = self._size(info)
        params = SamplingParams(
            model=name,
            condition=self._condition(info),
            sampler=sampler,
            spacing=spacing,
            steps=steps,
            guidance_scale=float(scale),
            guidance_interval=(float(start), float(end)),
            eta=float(self.eta),
            seed=secrets.randbelow(_RANDOM_SEEDS) if self.seed is None else self.seed,
            n=self.n,
            width=width,
            height=height,
        )
        params = params.canonical(info)
        limits.check(params)
        return params

    def _condition(self, info: ModelInfo) -> Condition:
        """What it is to show, asked for in the way that the model takes."""
        asked = {name: getattr(self, "class_" if name == "class" else name) for name in ASKING}
        given = [name for name, value in asked.items() if value is not None]
        if foreign := [name for name in given if name not in info.takes.fields]:
            raise InvalidRequest(dict.fromkeys(foreign, _instead(info)))
        if info.prompts is None:
            try:
                return info.classes.condition(self.class_)
            except ValueError as error:
                raise InvalidRequest({"class": str(error)}) from error
        skipped, most = self.clip_skip or 0, info.prompts.clip_skip
        if skipped > most:
            told = f"at most {most} of the layers of model {info.name!r} may be left out"
            raise InvalidRequest({"clip_skip": told})
        return Condition(prompt=Prompt(self.prompt or "", self.negative_prompt or "", skipped))

    def _sampler(self, info: ModelInfo) -> tuple[str, str]:
        """The sampler, and the spacing of its steps."""
        name = self.sampler or info.sampler
        if name not in info.samplers:
            allowed = ", ".join(info.samplers)
            raise InvalidRequest({"sampler": f"must be one of {allowed} for model {info.name!r}"})
        sampler = SAMPLERS[name]
        if self.eta and not sampler.eta:
            raise InvalidRequest({"eta": f"must be 0 with sampler {sampler.name!r}"})
        spacing = self.spacing or sampler.spacing(info.spacing)
        if spacing not in sampler.spacings:
            allowed = " or ".join(map(repr, sampler.spacings))
            raise InvalidRequest({"spacing": f"must be {allowed} with sampler {sampler.name!r}"})
        return sampler.name, spacing

    def _size(self, info: ModelInfo) -> tuple[int, int]:
        own = info.sizes
        width, height = self.width or own.width, self.height or own.height
        try:
            own.check(width, height)
        except ValueError as error:
            wrong = "width" if self.width not in (None, own.width) else "height"
            raise InvalidRequest({wrong: str(error)}) from error
        return width, height


def _named(
    values: Mapping[str, Any], models: Mapping[str, ModelInfo]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Values by the names we give them; and what is wrong with those that have no place."""
    known = allowed_values()
    listed = ", ".join(known)
    named: dict[str, Any] = {}
    wrong: dict[str, str] = {}
    for given, value in values.items():
        name = ALIASES.get(given, given)
        if name not in known:
            hint = _hint(given) if len(wrong) < MOST_ERRORS else ""  # others are not told
            info = asked_of(values.get("model"), models) if given.lower() in _PROMPTS else None
            told = _instead(info) if info else f"{hint}allowed: {listed}"
            wrong[given] = f"unknown field; {told}"
        elif name in named:
            wrong[given] = f"{name!r} is given twice"
        else:
            named[name] = value
    return named, wrong


def _instead(info: ModelInfo) -> str:
    """How a model is asked, for those who asked in another way."""
    return f"{info.name} takes {info.takes.describe()}"


def _hint(given: str) -> str:
    """The fields that stand for a name of others; or that it nearly is, as a question."""
    if given in _INSTEAD:
        return f"use {_INSTEAD[given]}; "
    if not 0 < len(given) <= LONGEST_NAME:  # difflib takes quadratic time
        return ""
    near = difflib.get_close_matches(given, [*allowed_values(), *ALIASES], 1)
    return f"did you mean {near[0]!r}? " if near else ""


@functools.cache
def allowed_values() -> Mapping[str, str]:
    """What each field of a request may be, in words, read from its schema."""
    fields = GenerateRequest.model_json_schema(by_alias=True)["properties"]
    return {name: in_words(field) for name, field in fields.items()}


def in_words(field: Mapping[str, Any]) -> str:
    """What a field may be, by its JSON schema."""
    return " or ".join(map(_option_in_words, field.get("anyOf", [field])))


def _option_in_words(option: Mapping[str, Any]) -> str:
    kind: str = option["type"]
    if "enum" in option:
        return "one of " + ", ".join(option["enum"])
    if kind == "array":
        bounds = f"from {option['items']['minimum']} to {option['items']['maximum']}"
        return f"a list of {option['minItems']} numbers {bounds}"
    if "minimum" in option:
        return f"{_WORDS[kind]} from {option['minimum']} to {option['maximum']}"
    if "exclusiveMinimum" in option:
        bounds = f"above {option['exclusiveMinimum']:g} and up to {option['maximum']:g}"
        return f"{_WORDS[kind]} {bounds}"
    if "maxLength" in option:
        without = ", none of them NUL" if "pattern" in option else ""
        return f"{_WORDS[kind]} of at most {option['maxLength']} characters{without}"
    return _WORDS[kind]
