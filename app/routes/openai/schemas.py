"""What OpenAI's Images API takes and answers.

https://platform.openai.com/docs/api-reference/images/create
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

from app.engine.job import Request
from app.errors import Fault, InvalidRequest
from app.generation import Studio
from app.routes.dialects import to_request
from app.schemas.fields import (
    NUMBER,
    ClipSkip,
    Count,
    Fields,
    Flag,
    Kind,
    KindName,
    Name,
    Negative,
    Quality,
    Scale,
    Seed,
    Steps,
)

# Open WebUI and LibreChat ask for these by name, and offer no others.
_OTHERS_NAMES = re.compile(r"(gpt-image|chatgpt-image|dall-e)-.*", re.DOTALL)
_SIZE = re.compile(r"(-?[0-9]+)x(-?[0-9]+)")  # any two numbers, of which some are refused
_IGNORED = "Ignored; if it asks for something, the header `Warning` says so."
_LINKED = "dall-e-"  # those that OpenAI answers with addresses, if nothing else is asked for


class ImageRequest(Fields):
    """What to draw. Fields that are not listed are ignored; null is as good as absent."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {  # if/then says it better, but Redocly finds examples wrong by it
                "properties": {
                    "stream": {"enum": [True, 1]},
                    "n": {"type": "integer", "minimum": 2},
                },
                "required": ["stream", "n"],
            },
        },
    )

    prompt: str = Field(
        description="What the images show; names a class, if the model takes classes."
    )
    model: str | None = Field(
        None,
        description="A name from /v1/models. The default one if absent, and by the names "
        "`gpt-image-*`, `chatgpt-image-*` and `dall-e-*`.",
    )
    n: Count = Field(None, description="Number of images, 1 if absent; must be 1 with `stream`.")
    response_format: Literal["url", "b64_json"] | None = Field(
        None, description="If absent, `url` for models `dall-e-*` and `b64_json` for others."
    )
    output_format: Kind = Field(None, description="png if absent; jpg means jpeg.")
    output_compression: Quality = Field(
        None,
        description="Quality of a JPEG or WebP in `b64_json`; the best that is made here if absent "
        "or 100.",
    )
    stream: Flag = Field(None, description="Answer with server-sent events.")
    partial_images: Annotated[int, Field(ge=0, le=3), NUMBER] | None = Field(
        None, description="With `stream`: at most this many previews."
    )
    seed: Seed = Field(None, description="Image k uses seed + k. Random if absent or -1.")
    num_inference_steps: Steps = Field(None, description="Steps of the sampler.")
    steps: Steps = Field(None, description="The same; used if the field above is absent.")
    guidance_scale: Scale = Field(
        None, description="Classifier-free guidance scale; the model's default if absent."
    )
    sampler: Name = Field(None, description="The model's default if absent.")
    size: str | None = Field(
        None,
        description="`{width}x{height}`; ignored by models of one size. The answer gives the size.",
    )
    negative_prompt: Negative = None
    clip_skip: ClipSkip = None
    quality: str | None = Field(None, description=_IGNORED)
    background: str | None = Field(None, description=_IGNORED)
    style: str | None = Field(None, description=_IGNORED)
    moderation: str | None = Field(None, description="Ignored.")
    user: str | None = Field(None, description="Ignored.")

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, within: str = "", prompt: str = "") -> Self:
        """Check values by name; raises `InvalidRequest`."""
        wanted = super().parse(values, within=within, prompt=prompt)
        if wanted.stream and (wanted.n or 1) > 1:
            raise InvalidRequest(
                {"n": "must be 1 with stream, because its events are about one image"}
            )
        return wanted

    @property
    def linked(self) -> bool:
        """Whether images are answered by their addresses."""
        asked = self.response_format
        return asked == "url" if asked else (self.model or "").startswith(_LINKED)

    def cautions(self, size: str) -> list[str]:
        """What to tell of fields that ask for what is not made here, where this size is made."""
        asked = {"quality": self.quality, "background": self.background, "style": self.style}
        told = [f"{name}: ignored" for name, value in asked.items() if value not in (None, "auto")]
        if self.size not in (None, "auto", size):
            told.append(f"size: ignored; it is {size}")
        return told

    @property
    def kind(self) -> KindName:
        """The format of the files."""
        return self.output_format or "png"

    @property
    def file_quality(self) -> int | None:
        """What `encode` takes."""
        return None if self.output_compression == 100 else self.output_compression

    def to_request(self, studio: Studio) -> Request:
        """What the engine takes; raises `InvalidRequest` or `UnknownModel`."""
        name = self.model
        if name is not None and name not in studio.models and _OTHERS_NAMES.fullmatch(name):
            name = None
        steps_field = "steps" if self.num_inference_steps is None else "num_inference_steps"
        size = _SIZE.fullmatch(self.size or "")
        native = {
            "model": name,
            "negative_prompt": self.negative_prompt,
            "clip_skip": self.clip_skip,
            "n": self.n,
            "seed": self.seed,
            "steps": getattr(self, steps_field),
            "guidance_scale": self.guidance_scale,
            "sampler": self.sampler,
            "width": size and size[1],
            "height": size and size[2],
            "previews": self.partial_images or 0,
        }
        names = {"steps": steps_field, "spacing": "sampler", "width": "size", "height": "size"}
        return to_request(studio, self.prompt, native, names)


class TokensDetails(BaseModel):
    """Tokens by what they stand for: none, as no model here counts any."""

    image_tokens: int = 0
    text_tokens: int = 0


class ImageUsage(BaseModel):
    """Tokens of a request: none."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: TokensDetails = TokensDetails()
    output_tokens_details: TokensDetails = TokensDetails()


class Made(BaseModel):
    """What images are like; there is one quality."""

    background: Literal["opaque"] = "opaque"
    output_format: KindName
    quality: Literal["high"] = "high"
    size: str = Field(description="In pixels.", examples=["32x32"])


class ImageData(BaseModel):
    """An image, in one of two ways."""

    b64_json: str | None = Field(None, description="The file in base64.")
    url: str | None = Field(None, description="Address of the image; it stays valid.")


class ImagesResponse(Made):
    """Images, in the order of their seeds."""

    created: int = Field(description="Unix time.")
    data: list[ImageData]
    usage: ImageUsage = ImageUsage()
    seed: int = Field(description="Image k used seed + k.")


class PartialImageEvent(Made):
    """What the image will be."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    b64_json: str
    partial_image_index: int = Field(description="Counts from 0.")
    created_at: int


class CompletedImageEvent(Made):
    """The image."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    b64_json: str
    created_at: int
    usage: ImageUsage = ImageUsage()
    seed: int
    warnings: list[str] = Field([], description="What `Warning` says of a response in one piece.")


class ModelEntry(BaseModel):
    """A loaded model."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="Always 0: a checkpoint has no date.")
    owned_by: Literal["darkroom"] = "darkroom"


class ModelEntries(BaseModel):
    """The loaded models, the default one first."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class ErrorBody(BaseModel):
    """What went wrong; `param` is the first field that is wrong."""

    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


_CODES = {"Unauthorized": "invalid_api_key", "Limit exceeded": "rate_limit_exceeded"}


class ErrorEnvelope(BaseModel):
    """How OpenAI tells errors."""

    error: ErrorBody

    @classmethod
    def of(cls, fault: Fault) -> Self:
        """A fault in these terms."""
        model = fault.status == 404  # nothing else is looked up by these routes
        kind: Literal["invalid_request_error", "rate_limit_error", "server_error"]
        if fault.status >= 500:
            kind = "server_error"
        else:
            kind = "rate_limit_error" if fault.status == 429 else "invalid_request_error"
        param = "model" if model else next(iter(fault.wrong), None) or None
        code = _CODES.get(fault.title) or ("model_not_found" if model else None)
        return cls(error=ErrorBody(message=fault.detail, type=kind, param=param, code=code))
