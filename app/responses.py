"""Responses of the native API: images, and the events on the way to them."""

import base64
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

from app.engine.job import ModelInfo, Moved, Params, Queued, Result


class ImageOut(BaseModel):
    """One image of a JSON response."""

    seed: int
    id: str = Field(description="What was asked for, and of which checkpoint, in short.")
    url: str = Field(description="Where it can be had again: `/images/{id}.png`.")
    media_type: str = "image/png"
    data: str = Field(description="The file, base64.")

    @property
    def content(self) -> bytes:
        """The file."""
        return base64.b64decode(self.data)


class Parameters(BaseModel):
    """What was used to make images: send it again and get the same."""

    model_config = ConfigDict(populate_by_name=True)

    model: str
    class_: str | None = Field(alias="class")
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]
    eta: float
    seed: int
    n: int

    @classmethod
    def of(cls, params: Params, info: ModelInfo) -> Self:
        """The parameters of a request by their names."""
        return cls(
            model=params.model,
            class_=None if params.class_index is None else info.classes[params.class_index],
            steps=params.steps,
            guidance_scale=params.guidance_scale,
            guidance_interval=params.guidance_interval,
            eta=params.eta,
            seed=params.seed,
            n=params.n,
        )


class GenerateResponse(Parameters):
    """Images, with what was used to make them."""

    images: list[ImageOut]


class Timing(BaseModel):
    """Where the seconds went."""

    queue: float = Field(description="Until its first step.")
    denoise: float = Field(description="Until the last step of its last image.")
    decode: float = Field(description="Until the last image was there.")
    encode: float = Field(description="Until the files were.")

    @classmethod
    def of(cls, result: Result, encode: float) -> Self:
        """What the engine measured, and the encoding after it."""
        seconds = (result.queue, result.denoise, result.decode, encode)
        queue, denoise, decode, encode = (round(value, 6) for value in seconds)
        return cls(queue=queue, denoise=denoise, decode=decode, encode=encode)


class QueuedEvent(BaseModel):
    """The request waits."""

    position: int = Field(description="How many requests come before it.")
    wait: float = Field(description="Seconds to its first step, about.")

    @classmethod
    def of(cls, update: Queued) -> Self:
        """What the engine said."""
        return cls(position=update.position, wait=round(update.wait, 3))


class ProgressEvent(BaseModel):
    """Steps were made."""

    step: int = Field(description="Made so far, by all images together.")
    steps: int = Field(description="To be made, by all images together.")
    left: float = Field(description="Seconds to its end, about.")

    @classmethod
    def of(cls, update: Moved) -> Self:
        """What the engine said."""
        return cls(step=update.step, steps=update.steps, left=round(update.left, 3))


class PreviewEvent(BaseModel):
    """What an image will be, as a small picture."""

    image: int = Field(description="Which image, 0 to n - 1.")
    step: int = Field(description="How many steps it has made.")
    steps: int
    media_type: str = "image/jpeg"
    data: str = Field(description="The file, base64.")

    @property
    def content(self) -> bytes:
        """The file."""
        return base64.b64decode(self.data)


class CompletedEvent(GenerateResponse):
    """The images."""

    timing: Timing
