"""What Replicate's API takes, and what it tells of models.

https://replicate.com/docs/reference/http
"""

import contextlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, Field

from app.engine.job import Request
from app.engine.model_info import ModelInfo
from app.errors import InvalidRequest, UnknownModel, model_of
from app.files.formats import JPEG, PNG, WEBP, Format
from app.generation import Studio
from app.routes.dialects import to_request
from app.schemas.fields import (
    ClipSkip,
    Count,
    Fields,
    Kind,
    Name,
    Negative,
    Quality,
    Scale,
    Seed,
    Side,
    Steps,
)
from models.bounds import brief

OWNER = "local"  # of a model that was asked for without one
_KINDS = {"png": PNG, "webp": WEBP, "jpeg": JPEG}
_COG = "0.3.9"  # the first whose clients read from the schema whether an output is told bit by bit
_LONG_AGO = datetime.fromtimestamp(0, UTC)


class PredictionInput(Fields):
    """What to draw. Fields that are not listed are ignored; null is as good as absent."""

    prompt: str = Field(
        description="What the images show; names a class, if the model takes classes."
    )
    negative_prompt: Negative = None
    clip_skip: ClipSkip = None
    seed: Seed = Field(None, description="Image k uses seed + k. Random if absent or -1.")
    num_inference_steps: Steps = Field(None, description="Steps of the sampler.")
    guidance_scale: Scale = Field(
        None, description="Classifier-free guidance scale; the model's default if absent."
    )
    guidance: Scale = Field(None, description="The same; used if the field above is absent.")
    scheduler: Name = Field(
        None, description="The sampler, as `DDIM`, `K_EULER` or `DPMSolverMultistep`."
    )
    width: Side = Field(None, description="Pixels; ignored by models of one size.")
    height: Side = Field(None, description="Pixels; ignored by models of one size.")
    num_outputs: Count = Field(None, description="Number of images, 1 if absent.")
    output_format: Kind = Field(None, description="png if absent; jpg means jpeg.")
    output_quality: Quality = Field(
        None, description="Quality of a JPEG or WebP; if absent or 100, the highest available."
    )

    @property
    def kind(self) -> Format:
        """The format of the files."""
        return _KINDS[self.output_format or "png"]

    @property
    def quality(self) -> int | None:
        """What `encode` takes."""
        return None if self.output_quality == 100 else self.output_quality

    def to_request(self, name: str, studio: Studio) -> Request:
        """What the engine takes; raises `InvalidRequest` or `UnknownModel`."""
        scale_field = "guidance" if self.guidance_scale is None else "guidance_scale"
        native = {
            "model": name,
            "negative_prompt": self.negative_prompt,
            "clip_skip": self.clip_skip,
            "seed": self.seed,
            "steps": self.num_inference_steps,
            "guidance_scale": getattr(self, scale_field),
            "n": self.num_outputs,
            "sampler": self.scheduler,
            "width": self.width,
            "height": self.height,
        }
        names = {
            "steps": "num_inference_steps",
            "guidance_scale": scale_field,
            "n": "num_outputs",
            "sampler": "scheduler",
            "spacing": "scheduler",
        }
        try:
            return to_request(studio, self.prompt, native, names)
        except InvalidRequest as error:
            raise InvalidRequest(error.wrong, "input") from error


def name_in(version: object) -> str | None:
    """The name of a model that a version has in it, if any."""
    if not isinstance(version, str) or "/" not in version:
        return None
    return version.partition(":")[0].rpartition("/")[2]


def named(version: object, models: Mapping[str, ModelInfo]) -> tuple[str, ModelInfo]:
    """The owner and model of a version: `{id}`, `{owner}/{name}` or `{owner}/{name}:{id}`.

    An id is the checkpoint's SHA-256, or its first ten digits.

    Raises:
        InvalidRequest: there is no such version.
        EngineUnavailable: its model did not load.
    """
    if isinstance(version, str) and version:
        path, _, digest = version.partition(":") if "/" in version else ("", "", version)
        owner, _, name = path.rpartition("/")
        with contextlib.suppress(UnknownModel):
            for info in [model_of(name, models)] if name else models.values():
                if digest in ("", info.digest, info.hash):
                    return owner or OWNER, info
    loaded = ", ".join(f"{OWNER}/{info.name}:{info.hash}" for info in models.values())
    raise InvalidRequest({"version": f"unknown version {brief(version)}; loaded: {loaded}"})


class PredictionModelVersion(BaseModel):
    """A checkpoint."""

    id: str = Field(description="SHA-256 of the checkpoint.")
    created_at: AwareDatetime = Field(
        _LONG_AGO, description="Always 1970: a checkpoint has no date."
    )
    cog_version: str = Field(_COG, description="The version of Cog whose schemas this one follows.")
    openapi_schema: dict[str, Any] = Field(description="Schemas of `input` and `output`.")

    @classmethod
    def of(cls, info: ModelInfo) -> Self:
        """The one version of a model that is loaded."""
        picture = {"type": "string", "format": "uri"}
        schemas = {
            "Input": PredictionInput.model_json_schema(),
            "Output": {"title": "Output", "type": "array", "items": picture},
        }
        document = {"openapi": "3.1.0", "info": {"title": info.name, "version": info.hash}}
        return cls(
            id=info.digest,
            openapi_schema=document | {"paths": {}, "components": {"schemas": schemas}},
        )


class PredictionModelVersions(BaseModel):
    """The versions of a model: one, on the one page there is."""

    previous: None = None
    next: None = None
    results: list[PredictionModelVersion]


class PredictionModel(BaseModel):
    """A loaded model."""

    url: str
    owner: str = Field(
        description="The owner as the request named it; any will do.", examples=[OWNER]
    )
    name: str
    description: str
    visibility: Literal["public"] = "public"
    is_official: Literal[False] = False
    github_url: None = None
    paper_url: None = None
    license_url: None = None
    run_count: int = Field(0, description="Always 0: runs are not counted.")
    cover_image_url: None = None
    default_example: None = None
    latest_version: PredictionModelVersion

    @classmethod
    def of(cls, url: str, owner: str, info: ModelInfo) -> Self:
        """Describe a loaded model."""
        asked = f", by class: {info.classes.listed}" if info.classes.names else ""
        asked = ", by prompt" if info.prompts else asked
        return cls(
            url=url,
            owner=owner,
            name=info.name,
            description=f"Pictures of {info.sizes}{asked}",
            latest_version=PredictionModelVersion.of(info),
        )
