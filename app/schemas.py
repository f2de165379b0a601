"""Requests and responses of the native API, and the step from one to what the engine takes."""

import secrets
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from app.engine.job import (
    DEFAULT_STEPS,
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_SEED,
    MAX_STEPS,
    ModelInfo,
    Params,
)
from app.errors import InvalidRequest, UnknownModel
from models.conditioning import Classes

_RANDOM_SEEDS = 2**32  # short enough to read aloud, and exact in JavaScript


class GenerateRequest(BaseModel):
    """What to draw. Every field may be left out but `class`, where the model insists on one."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        json_schema_extra={"examples": [{"class": "7", "steps": 50, "seed": 1}]},
    )

    class_: str | int | None = Field(
        None, alias="class", description="Name or index of a class; null for none."
    )
    steps: int = Field(
        DEFAULT_STEPS, ge=1, le=MAX_STEPS, description="DDIM steps, at most what the model has."
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=MAX_GUIDANCE_SCALE,
        allow_inf_nan=False,
        description="Classifier-free guidance; 1 is none. The model's default if absent.",
    )
    eta: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="0 is deterministic, 1 ancestral."
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Image k uses seed + k. Random if absent."
    )
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many images.")
    model: str | None = Field(None, description="A name from /models; the first if absent.")

    def to_params(self, models: Mapping[str, ModelInfo]) -> Params:
        """Choose the model, fill in its defaults and check what depends on it.

        Raises:
            UnknownModel, InvalidRequest: naming the field and what is allowed.
        """
        name = next(iter(models)) if self.model is None else self.model
        if name not in models:
            raise UnknownModel(f"unknown model {name[:40]!r}; loaded: {', '.join(models)}")
        info = models[name]
        asked = "steps" in self.model_fields_set
        steps = self.steps if asked else min(self.steps, info.max_steps)
        if steps > info.max_steps:
            raise InvalidRequest("steps", f"must be at most {info.max_steps} for model {name!r}")
        try:
            class_index = Classes(info.classes, info.null_class).index(self.class_)
        except ValueError as error:
            raise InvalidRequest("class", str(error)) from error
        scale = info.guidance_scale if self.guidance_scale is None else self.guidance_scale
        return Params(
            model=name,
            class_index=class_index,
            steps=steps,
            guidance_scale=float(scale),
            eta=float(self.eta),
            seed=secrets.randbelow(_RANDOM_SEEDS) if self.seed is None else self.seed,
            n=self.n,
        )


def allowed_values() -> dict[str, str]:
    """What each field of a request may be, in words, read from its schema."""
    words = {"integer": "an integer", "number": "a number", "string": "a string", "null": "null"}
    allowed = {}
    for name, field in GenerateRequest.model_json_schema(by_alias=True)["properties"].items():
        options = []
        for option in field.get("anyOf", [field]):
            text = words[option["type"]]
            if "minimum" in option:
                text += f" from {option['minimum']} to {option['maximum']}"
            options.append(text)
        allowed[name] = " or ".join(options)
    return allowed


class ImageOut(BaseModel):
    """One image of a JSON response."""

    seed: int
    media_type: str = "image/png"
    data: str = Field(description="The file, base64.")


class GenerateResponse(BaseModel):
    """Several images, with what was used to make them."""

    model_config = ConfigDict(populate_by_name=True)

    model: str
    class_: str | None = Field(alias="class")
    steps: int
    guidance_scale: float
    eta: float
    seed: int
    images: list[ImageOut]


class Limits(BaseModel):
    """The largest values a request may ask a model for."""

    steps: int
    n: int = MAX_IMAGES
    seed: int = MAX_SEED
    guidance_scale: float = MAX_GUIDANCE_SCALE


class Defaults(BaseModel):
    """What a request gets for fields it leaves out."""

    steps: int
    guidance_scale: float
    eta: float = 0.0
    n: int = 1


class ModelOut(BaseModel):
    """A loaded model."""

    name: str
    default: bool = Field(description="Whether requests that name no model get this one.")
    classes: list[str] = Field(description="In order of index; empty if there are none.")
    class_required: bool
    width: int
    height: int
    hash: str
    limits: Limits
    defaults: Defaults

    @classmethod
    def of(cls, info: ModelInfo, *, default: bool) -> "ModelOut":
        """Describe a loaded model."""
        return cls(
            name=info.name,
            default=default,
            classes=list(info.classes),
            class_required=not Classes(info.classes, info.null_class).optional,
            width=info.width,
            height=info.height,
            hash=info.digest,
            limits=Limits(steps=min(MAX_STEPS, info.max_steps)),
            defaults=Defaults(
                steps=min(DEFAULT_STEPS, info.max_steps), guidance_scale=info.guidance_scale
            ),
        )


class ModelList(BaseModel):
    """What is loaded."""

    models: list[ModelOut]


class Health(BaseModel):
    """A probe's answer."""

    status: str
