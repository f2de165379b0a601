"""What AUTOMATIC1111's web UI API takes and answers.

https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/API
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, Field

from app.engine.job import Request, SamplingParams
from app.engine.model_info import ModelInfo
from app.errors import Fault, InvalidRequest
from app.files.parameters import clip_skip_of, describe, layers_of
from app.generation import Studio
from app.routes.dialects import to_request
from app.schemas.fields import NUMBER, Count, Eta, Fields, Flag, Name, Scale, Seed, Side, Steps
from app.schemas.requests import MAX_CLIP_SKIP
from models.conditioning import MAX_PROMPT
from models.sampling import SAMPLERS

PREVIEWS = 8  # of every image, for those who poll /progress
SCHEDULERS = {"default": "Uniform", "karras": "Karras", "exponential": "Exponential"}


def title(info: ModelInfo) -> str:
    """A model as the web UI lists it."""
    return f"{info.name} [{info.hash}]"


def named(checkpoint: str, models: Mapping[str, ModelInfo]) -> str:
    """The model of a name, title, hash or SHA-256; in a title the name counts, as in the web UI.

    If there is no such model, the name that is meant.
    """
    for info in models.values():
        if checkpoint in (info.name, title(info)):
            return info.name
        if checkpoint.strip(" []").lower() in (info.hash, info.digest):
            return info.name
    bare = checkpoint.partition("[")[0].strip().removesuffix(".safetensors")
    return bare or checkpoint


# The layer of the text encoder that is read, counted from the end.
Layers = Annotated[int, Field(ge=0, le=layers_of(MAX_CLIP_SKIP)), NUMBER] | None


class Settings(Fields):
    """Settings of the web UI that a request may override; others are ignored."""

    sd_model_checkpoint: str | None = None
    CLIP_stop_at_last_layers: Layers = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Check those that a request overrides; raises `InvalidRequest`."""
        try:
            return cls.parse(given)
        except InvalidRequest as error:
            raise InvalidRequest({"override_settings": str(error)}) from error


class Txt2ImgRequest(Fields):
    """What to draw. Fields that are not listed are ignored; null is as good as absent."""

    prompt: str | None = Field(
        None, description="What the images show; names a class, if the model takes classes."
    )
    negative_prompt: str | None = Field(
        None,
        max_length=MAX_PROMPT,
        description="What guidance leads away from; models that take classes ignore it.",
    )
    clip_skip: Layers = Field(
        None,
        description="As the setting `CLIP_stop_at_last_layers`, which counts if both are given.",
    )
    seed: Seed = Field(None, description="Image k uses seed + k. Random if absent or -1.")
    steps: Steps = Field(None, description="Steps of the sampler.")
    cfg_scale: Scale = Field(
        None, description="Classifier-free guidance scale; the model's default if absent, not 7."
    )
    batch_size: Count = Field(
        None, description="`batch_size` x `n_iter` is the number of images, at most 16."
    )
    n_iter: Count = None
    eta: Eta = Field(None, description="Noise of DDIM: 0 for none, 1 for as much as DDPM.")
    sampler_name: Name = Field(
        None, description="A name of /samplers, ` Karras` after it or not; else the model's."
    )
    sampler_index: Name = Field(None, description="The same; used if the field above is absent.")
    scheduler: Name = Field(None, description="A name or label of /schedulers.")
    width: Side = Field(None, description="Pixels; ignored by models of one size.")
    height: Side = Field(None, description="Pixels; ignored by models of one size.")
    send_images: Flag = Field(None, description="False leaves `images` empty.")
    override_settings: dict[str, Any] | None = Field(
        None,
        description="`sd_model_checkpoint` chooses the model by name, title or hash. "
        "`CLIP_stop_at_last_layers` is the layer of the text encoder that is read, counted from "
        "the end: 1 is the last. Others are ignored.",
    )

    @property
    def count(self) -> int:
        """How many images."""
        return (self.batch_size or 1) * (self.n_iter or 1)

    def model_of(self, studio: Studio) -> str | None:
        """The model that is meant; None is the default. Raises `InvalidRequest`."""
        checkpoint = Settings.of(self.override_settings or {}).sd_model_checkpoint
        return named(checkpoint, studio.models) if checkpoint else None

    def to_request(self, studio: Studio) -> Request:
        """What the engine takes; raises `InvalidRequest` or `UnknownModel`."""
        settings = Settings.of(self.override_settings or {})
        layers = settings.CLIP_stop_at_last_layers
        layers_field = "clip_skip" if layers is None else "override_settings"
        layers = self.clip_skip if layers is None else layers
        sampler_field = "sampler_index" if self.sampler_name is None else "sampler_name"
        native = {
            "model": self.model_of(studio),
            "negative_prompt": self.negative_prompt,
            "clip_skip": None if layers is None else clip_skip_of(layers),
            "seed": self.seed,
            "steps": self.steps,
            "guidance_scale": self.cfg_scale,
            "n": self.count,
            "eta": self.eta,
            "sampler": getattr(self, sampler_field),
            "spacing": self.scheduler,
            "width": self.width,
            "height": self.height,
            "previews": PREVIEWS,
        }
        names = {
            "guidance_scale": "cfg_scale",
            "n": "batch_size * n_iter",
            "sampler": sampler_field,
            "spacing": "scheduler",
            "clip_skip": layers_field,
        }
        return to_request(studio, self.prompt or "", native, names)


class Txt2ImgResponse(BaseModel):
    """Images, in the order of their seeds."""

    images: list[str] = Field(
        description="PNG files in base64; empty if the request was interrupted."
    )
    parameters: dict[str, Any] = Field(description="The request, with the values that were used.")
    info: str = Field(description="JSON: seeds, size, model, `infotexts` and more.")

    @classmethod
    def of(
        cls,
        wanted: Txt2ImgRequest,
        params: SamplingParams,
        info: ModelInfo,
        files: Sequence[str],
    ) -> Self:
        """What a request came to."""
        seeds = [params.seed_of(k) for k in range(params.n)]
        prompt = params.condition.prompt
        used = {
            "prompt": wanted.prompt or "",
            "negative_prompt": wanted.negative_prompt or "",
            "seed": params.seed,
            "subseed": params.seed,
            "width": params.width,
            "height": params.height,
            "sampler_name": SAMPLERS[params.sampler].title,
            "scheduler": SCHEDULERS[params.spacing],
            "cfg_scale": params.guidance_scale,
            "steps": params.steps,
            "batch_size": params.n,
            "clip_skip": layers_of(prompt.clip_skip if prompt else 0),
        }
        told = used | {
            "all_prompts": [wanted.prompt or ""] * params.n,
            "all_negative_prompts": [wanted.negative_prompt or ""] * params.n,
            "all_seeds": seeds,
            "all_subseeds": seeds,
            "sd_model_name": info.name,
            "sd_model_hash": info.hash,
            "infotexts": [describe(params, k, info) for k in range(params.n)],
            "index_of_first_image": 0,
        }
        parameters = used | {"n_iter": 1, "eta": params.eta}
        return cls(images=list(files), parameters=parameters, info=json.dumps(told))


class ProgressState(BaseModel):
    """Where the newest request of this address is."""

    skipped: bool = False
    interrupted: bool = False
    stopping_generation: bool = False
    job: str = ""
    job_count: int = Field(0, description="0 when no request is running.")
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0


class Progress(BaseModel):
    """How far the newest request of this address is; 0 when nothing is under way."""

    progress: float = Field(0.0, ge=0, le=1)
    eta_relative: float = Field(0.0, description="Estimated seconds until the end.")
    state: ProgressState = ProgressState()
    current_image: str | None = Field(None, description="The newest preview: a PNG in base64.")
    textinfo: str | None = None


class PngInfoRequest(Fields):
    """A picture to be read."""

    image: str = Field(description="A PNG, WebP or JPEG, in base64 or as a data URI.")


class PngInfoResponse(BaseModel):
    """What is written in a picture; empty where nothing is."""

    info: str
    items: dict[str, str]
    parameters: dict[str, str]


class ModelItem(BaseModel):
    """A loaded model."""

    title: str
    model_name: str
    hash: str | None
    sha256: str | None
    filename: str
    config: str | None = None


class SamplerItem(BaseModel):
    """A sampler."""

    name: str
    aliases: list[str]
    options: dict[str, str]


class SchedulerItem(BaseModel):
    """A spacing of the noise levels."""

    name: str
    label: str


class Options(BaseModel):
    """Settings, of which none can be changed."""

    sd_model_checkpoint: str
    sd_checkpoint_hash: str
    samples_format: str = "png"


class ErrorBody(BaseModel):
    """How the web UI tells errors."""

    error: str
    detail: str
    body: str = ""
    errors: str

    @classmethod
    def of(cls, fault: Fault) -> Self:
        """A fault in these terms."""
        return cls(error=fault.title, detail=fault.detail, errors=fault.detail)
