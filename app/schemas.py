"""Requests and responses of the native API, and the step from one to what the engine takes."""

import secrets
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from app.engine.job import (
    DEFAULT_STEPS,
    MAX_GUIDANCE_SCALE,
    MAX_IMAGES,
    MAX_PRIORITY,
    MAX_SEED,
    MAX_STEPS,
    MAX_TIMEOUT,
    MIN_PRIORITY,
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
    guidance_interval: list[Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]] = Field(
        [0.0, 1.0],
        min_length=2,
        max_length=2,
        description="The part of the steps that is guided, as fractions of the way.",
    )
    eta: float = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="0 is deterministic, 1 ancestral."
    )
    seed: int | None = Field(
        None, ge=0, le=MAX_SEED, description="Image k uses seed + k. Random if absent."
    )
    n: int = Field(1, ge=1, le=MAX_IMAGES, description="How many images.")
    model: str | None = Field(None, description="A name from /models; the first if absent.")
    priority: int = Field(
        0, ge=MIN_PRIORITY, le=MAX_PRIORITY, description="Higher ones are started first."
    )
    timeout: float | None = Field(
        None,
        gt=0,
        le=MAX_TIMEOUT,
        allow_inf_nan=False,
        description="Seconds until it is given up; the server's default if absent.",
    )

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
        start, end = self.guidance_interval
        if start > end:
            raise InvalidRequest("guidance_interval", "must begin before it ends")
        scale = info.guidance_scale if self.guidance_scale is None else self.guidance_scale
        params = Params(
            model=name,
            class_index=class_index,
            steps=steps,
            guidance_scale=float(scale),
            guidance_interval=(float(start), float(end)),
            eta=float(self.eta),
            seed=secrets.randbelow(_RANDOM_SEEDS) if self.seed is None else self.seed,
            n=self.n,
        )
        return params.canonical(info)


def allowed_values() -> dict[str, str]:
    """What each field of a request may be, in words, read from its schema."""
    words = {"integer": "an integer", "number": "a number", "string": "a string", "null": "null"}
    allowed = {}
    for name, field in GenerateRequest.model_json_schema(by_alias=True)["properties"].items():
        options = []
        for option in field.get("anyOf", [field]):
            if option["type"] == "array":
                bounds = f"from {option['items']['minimum']} to {option['items']['maximum']}"
                options.append(f"a list of {option['minItems']} numbers {bounds}")
            elif "minimum" in option:
                bounds = f"from {option['minimum']} to {option['maximum']}"
                options.append(f"{words[option['type']]} {bounds}")
            elif "exclusiveMinimum" in option:
                bounds = f"above {option['exclusiveMinimum']:g} and up to {option['maximum']:g}"
                options.append(f"{words[option['type']]} {bounds}")
            else:
                options.append(words[option["type"]])
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
    guidance_interval: tuple[float, float]
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


class TickOut(BaseModel):
    """What a step of so many rows takes."""

    rows: int = Field(description="UNet evaluations: one an image, two where it is guided.")
    milliseconds: float
    rows_per_second: float


class ExecutionOut(BaseModel):
    """What runs the model, and how fast it was when measured at the start."""

    backend: str
    device: str
    dtype: str
    exact: bool = Field(
        description="Whether pixels are the same bytes whatever shares the batch, as measured."
    )
    rows: int = Field(description="UNet evaluations a tick, where there are as many to make.")
    ticks: list[TickOut]


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
    execution: ExecutionOut

    @classmethod
    def of(cls, info: ModelInfo, *, default: bool, rows: int) -> "ModelOut":
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
            execution=ExecutionOut(
                backend=info.backend,
                device=info.device,
                dtype=info.dtype,
                exact=info.exact,
                rows=rows,
                ticks=[
                    TickOut(
                        rows=bucket.rows,
                        milliseconds=round(bucket.seconds * 1000, 3),
                        rows_per_second=round(bucket.rate, 1),
                    )
                    for bucket in info.costs.buckets
                ],
            ),
        )


class ModelList(BaseModel):
    """What is loaded."""

    models: list[ModelOut]


class EngineOut(BaseModel):
    """What the engine has done since the server started, and is at now."""

    ready: bool
    worker_pid: int | None
    restarts: int
    jobs: int = Field(description="Requests waiting or running.")
    running: int = Field(description="Slots taken.")
    ticks: int
    rows: int = Field(description="UNet evaluations made.")
    padding: int = Field(description="Rows that were run empty to fill a bucket.")
    shared: int = Field(description="Requests answered by an equal one that was in flight.")
    cancelled: int
    cancel_ticks: int = Field(
        description="Ticks from a client's leaving to its slots being free, at most."
    )
    slowness: float = Field(
        description="What ticks took of late, by what they took when measured at the start."
    )


class Health(BaseModel):
    """A probe's answer."""

    status: str
