"""Responses of the native API: images, and the events on the way to them."""

import base64
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from app.engine.job import SamplingParams
from app.engine.model_info import ModelInfo
from app.engine.results import Moved, Queued, Result


class ImageOut(BaseModel):
    """One image of a JSON response."""

    seed: int
    id: str | None = Field(
        description="The parameters and the checkpoint, encoded; null if that is too long for an "
        "address."
    )
    url: str | None = Field(description="Address of the image: `/images/{id}.png`.")
    media_type: str = "image/png"
    data: str = Field(description="The file in base64.")

    @property
    def content(self) -> bytes:
        """The file."""
        return base64.b64decode(self.data)


_OF_PROMPTS = "Of models that take prompts."


def _absent(value: object) -> bool:
    return value is None


class Parameters(BaseModel):
    """What was used to make images: send it again and get the same."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    model: str
    class_: str | None = Field(alias="class")
    prompt: str | None = Field(None, exclude_if=_absent, description=_OF_PROMPTS)
    negative_prompt: str | None = Field(None, exclude_if=_absent, description=_OF_PROMPTS)
    clip_skip: int | None = Field(None, exclude_if=_absent, description=_OF_PROMPTS)
    sampler: str
    spacing: str
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    eta: float
    seed: int
    n: int
    width: int
    height: int

    @classmethod
    def of(cls, params: SamplingParams, info: ModelInfo) -> Self:
        """The parameters of a request by their names."""
        return cls.named(params, info.classes.name(params.condition))

    @classmethod
    def named(cls, params: SamplingParams, class_name: str | None) -> Self:
        """As `of`, with the name of the class in place of the model that knows it."""
        prompt = params.condition.prompt
        return cls(
            model=params.model,
            class_=class_name,
            prompt=prompt and prompt.text,
            negative_prompt=prompt and prompt.negative,
            clip_skip=prompt and prompt.clip_skip,
            sampler=params.sampler,
            spacing=params.spacing,
            steps=params.steps,
            guidance_scale=params.guidance_scale,
            guidance_interval=params.guidance_interval,
            eta=params.eta,
            seed=params.seed,
            n=params.n,
            width=params.width,
            height=params.height,
        )


class GenerateResponse(Parameters):
    """Images, with what was used to make them."""

    images: list[ImageOut]


class Timing(BaseModel):
    """Where the seconds went."""

    queue: float = Field(description="Seconds until the first step.")
    denoise: float = Field(description="Seconds from there to the last step of the last image.")
    decode: float = Field(description="Seconds from there until the last image was decoded.")
    encode: float = Field(description="Seconds from there until the files were encoded.")

    @classmethod
    def of(cls, result: Result, encode: float) -> Self:
        """What the engine measured, and the encoding after it."""
        seconds = (result.queue, result.denoise, result.decode, encode)
        queue, denoise, decode, encode = (round(value, 6) for value in seconds)
        return cls(queue=queue, denoise=denoise, decode=decode, encode=encode)


class QueuedEvent(BaseModel):
    """The request waits."""

    position: int = Field(description="How many requests come before this one.")
    wait: float = Field(description="Estimated seconds until the first step.")

    @classmethod
    def of(cls, update: Queued) -> Self:
        """What the engine said."""
        return cls(position=update.position, wait=round(update.wait, 3))


class ProgressEvent(BaseModel):
    """The network was evaluated."""

    step: int = Field(description="Evaluations of the network so far, of all images together.")
    steps: int = Field(description="Evaluations in total, of all images together.")
    left: float = Field(description="Estimated seconds until the end.")

    @classmethod
    def of(cls, update: Moved) -> Self:
        """What the engine said."""
        return cls(step=update.step, steps=update.steps, left=round(update.left, 3))


class PreviewEvent(BaseModel):
    """What an image will be, as a small picture."""

    image: int = Field(description="Number of the image, 0 to n - 1.")
    step: int = Field(description="Evaluations of the network that the image has had.")
    steps: int
    media_type: str = "image/jpeg"
    data: str = Field(description="The file in base64.")

    @property
    def content(self) -> bytes:
        """The file."""
        return base64.b64decode(self.data)


class CompletedEvent(GenerateResponse):
    """The images."""

    timing: Timing
    warnings: list[str] = Field([], description="As in the header `Warning` of other answers.")
