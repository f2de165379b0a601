"""What the server says of itself: its models, its engine, its health."""

from typing import Any, Self

from pydantic import BaseModel, Field

from app.access.limits import RequestLimits
from app.engine.client import EngineClient
from app.engine.costs import Bucket
from app.engine.fleet import State
from app.engine.job import DEFAULT_STEPS, MAX_GUIDANCE_SCALE, MAX_SEED
from app.engine.model_info import LaneId
from app.engine.process import resident_bytes
from app.engine.stats import LaneStats
from models.conditioning import MAX_PROMPT, Prompts
from models.sampling import SAMPLERS, Sampler
from models.sizes import Sizes


class Limits(BaseModel):
    """The largest values a request may ask a model for."""

    steps: int
    n: int
    pixels: int = Field(description="Of one image, whatever sizes the model draws.")
    evaluations: int = Field(
        description="Of all images: one per image and evaluation of the network, two where guided."
    )
    streams: int = Field(description="Event streams that a client may have open, for all models.")
    seed: int = MAX_SEED
    guidance_scale: float = MAX_GUIDANCE_SCALE


class Defaults(BaseModel):
    """What a request gets for fields it leaves out."""

    steps: int
    sampler: str
    spacing: str
    guidance_scale: float
    eta: float = 0.0
    n: int = 1


class TickOut(BaseModel):
    """What a tick of so many rows takes."""

    rows: int = Field(description="Rows of the network: one per image, or two if it is guided.")
    milliseconds: float = Field(description="As learned from ticks that ran.")
    rows_per_second: float
    measured_milliseconds: float = Field(description="As measured at the start.")

    @classmethod
    def of(cls, known: Bucket, measured: Bucket) -> "TickOut":
        """The same bucket, as it is known now and as it was measured."""
        return cls(
            rows=known.rows,
            milliseconds=round(known.seconds * 1000, 3),
            rows_per_second=round(known.rate, 1),
            measured_milliseconds=round(measured.seconds * 1000, 3),
        )


class ExecutionOut(BaseModel):
    """What runs the model, and how fast, at the model's own size."""

    backend: str
    device: str = Field(description="`cpu`, or the GPU's name.")
    dtype: str
    exact: bool = Field(
        description="Whether pixels were measured to be the same whatever shares the batch."
    )
    rows: int = Field(description="Rows per tick when there is enough to do.")
    ticks: list[TickOut]


class SizesOut(BaseModel):
    """Sides of images, in pixels."""

    least: int
    most: int
    step: int
    pixels: int = Field(description="Pixels in all, at most.")

    @classmethod
    def of(cls, sizes: Sizes) -> "SizesOut | None":
        """What a model allows besides its own size."""
        if sizes.fixed:
            return None
        return cls(least=sizes.least, most=sizes.most, step=sizes.step, pixels=sizes.pixels)


class PromptsOut(BaseModel):
    """What prompts a model takes."""

    characters: int = Field(MAX_PROMPT, description="Of a prompt, at most.")
    tokens: int = Field(
        description="That are read, with the marks at both ends; what goes beyond them is cut."
    )
    clip_skip: int = Field(description="Layers of the text encoder that may be left out, at most.")

    @classmethod
    def of(cls, prompts: Prompts) -> "PromptsOut":
        """Describe them."""
        return cls(tokens=prompts.tokens, clip_skip=prompts.clip_skip)


class SamplerOut(BaseModel):
    """A way from noise to an image."""

    name: str
    title: str = Field(description="What AUTOMATIC1111 calls it, or would.")
    spacings: list[str]
    eta: bool = Field(description="Whether it takes `eta`.")
    evaluations_per_step: int = Field(
        description="With 2, the last step evaluates the network once; pndm does once more in all."
    )

    @classmethod
    def of(cls, sampler: Sampler) -> "SamplerOut":
        """Describe a sampler."""
        return cls(
            name=sampler.name,
            title=sampler.title,
            spacings=list(sampler.spacings),
            eta=sampler.eta,
            evaluations_per_step=2 if sampler.twice else 1,
        )


class ModelState(BaseModel):
    """Whether a model is loaded."""

    name: str
    state: State = Field(description="A request for a model that is unloaded loads it.")
    stays: bool = Field(description="Whether it is loaded at the start and never leaves by itself.")
    memory_bytes: int | None = Field(
        description="Resident memory of its process; null if it has none."
    )
    idle_seconds: float | None = Field(
        description="Since it was used or loaded last; null if it never was."
    )

    @classmethod
    def of(cls, engine: EngineClient, name: str, **more: Any) -> Self:
        """Describe one of the models."""
        worker, used = engine.fleet.workers.get(name), engine.fleet.used(name)
        return cls(
            name=name,
            state=engine.fleet.state(name),
            stays=engine.fleet.stays(name),
            memory_bytes=worker and resident_bytes(worker.process.pid),
            idle_seconds=None if used is None else round(used, 1),
            **more,
        )


class ModelOut(ModelState):
    """A model. What is not known before it was loaded once is null until then."""

    default: bool = Field(description="Whether requests without a model get this one.")
    classes: list[str] | None = Field(
        None, description="Class names in order of index; empty if there are none."
    )
    class_required: bool | None = None
    class_sheet: bool | None = Field(
        None, description="Whether `/models/{name}/classes.png` shows an image of each class."
    )
    takes: list[str] | None = Field(
        None, description="The fields of a request that say what to draw."
    )
    prompts: PromptsOut | None = Field(None, description="Null if it takes no prompts.")
    width: int | None = None
    height: int | None = None
    sizes: SizesOut | None = Field(
        None, description="Other sizes it can draw; null if there are none."
    )
    samplers: list[SamplerOut] | None = None
    hash: str | None = Field(None, description="The first ten digits of `sha256`.")
    sha256: str | None = Field(
        None, description="SHA-256 of the checkpoint: configurations and weights."
    )
    limits: Limits | None = None
    defaults: Defaults | None = None
    execution: ExecutionOut | None = None

    @classmethod
    def named(cls, engine: EngineClient, name: str, limits: RequestLimits, streams: int) -> Self:
        """Describe one of the models, as far as it is known, and what it may be asked for here."""
        default = name == next(iter(engine.models), None)
        info = engine.models.get(name)
        if info is None:
            return cls.of(engine, name, default=default)
        costs, rows = engine.costs(info.lane), engine.rows(info)
        steps = min(info.max_steps, limits.steps)
        return cls.of(
            engine,
            name,
            default=default,
            classes=list(info.classes.names),
            class_required=not info.classes.optional,
            class_sheet=info.sheet is not None,
            takes=list(info.takes.fields),
            prompts=info.prompts and PromptsOut.of(info.prompts),
            width=info.sizes.width,
            height=info.sizes.height,
            sizes=SizesOut.of(info.sizes),
            samplers=[SamplerOut.of(SAMPLERS[name]) for name in info.samplers],
            hash=info.hash,
            sha256=info.digest,
            limits=Limits(
                steps=steps,
                n=limits.images,
                pixels=limits.pixels,
                evaluations=limits.evaluations,
                streams=streams,
            ),
            defaults=Defaults(
                steps=min(DEFAULT_STEPS, steps),
                sampler=info.sampler,
                spacing=SAMPLERS[info.sampler].spacing(info.spacing),
                guidance_scale=info.guidance_scale,
            ),
            execution=ExecutionOut(
                backend=info.backend,
                device=info.device,
                dtype=info.dtype,
                exact=info.exact,
                rows=rows,
                ticks=list(map(TickOut.of, costs.buckets, info.costs.buckets)),
            ),
        )


class FailedModel(BaseModel):
    """A model that was to be loaded, and is not."""

    name: str
    reason: str


class ModelList(BaseModel):
    """All models: those that requests may name, and those that cannot be loaded."""

    models: list[ModelOut]
    failed: list[FailedModel] = Field(
        [], description="Models that did not load; the log says more."
    )


class LaneOut(BaseModel):
    """A model at one image size; counts since the worker made it."""

    model: str
    width: int
    height: int
    ticks: int
    rows: int = Field(description="Rows of the network that were run.")
    padding: int
    running: int = Field(description="Slots in use.")
    slowness: float = Field(
        description="How long recent ticks took, divided by what they take on a quiet device: "
        "about 2 if another lane is busy, too."
    )

    @classmethod
    def of(cls, lane: LaneId, stats: LaneStats) -> "LaneOut":
        """Describe a lane."""
        return cls(
            model=lane.model,
            width=lane.width,
            height=lane.height,
            ticks=stats.ticks,
            rows=stats.rows,
            padding=stats.padding,
            running=stats.running,
            slowness=round(stats.slowness, 3),
        )


class WorkerOut(BaseModel):
    """The process of one model."""

    model: str
    pid: int
    restarts: int = Field(description="How often it died since the model was loaded.")
    memory_bytes: int | None = Field(description="Resident.")


class EngineOut(BaseModel):
    """What the engine has done since the server started, and is at now."""

    ready: bool
    worker_pid: int | None = Field(description="Of the first of `workers`.")
    workers: list[WorkerOut]
    restarts: int = Field(description="How often workers died, of all models.")
    jobs: int = Field(description="Requests waiting or running.")
    running: int = Field(description="Slots in use.")
    ticks: int
    rows: int = Field(description="Rows of the network that were run.")
    padding: int = Field(description="Empty rows that were run to fill a bucket.")
    shared: int = Field(description="Requests answered by an equal one that was in flight.")
    cancelled: int
    cancel_ticks: int = Field(
        description="The most ticks from a client's disconnect until its slots were free."
    )
    slowness: float = Field(
        description="How long recent ticks took, divided by what they take on a quiet device."
    )
    lanes: list[LaneOut]


class Health(BaseModel):
    """A probe's answer."""

    status: str
