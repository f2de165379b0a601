"""Models that come and go."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.engine.fleet import Keeping
from models.bounds import brief
from models.library import split


class FleetSettings(BaseSettings):
    """Models that come and go."""

    model_folders: Annotated[tuple[Path, ...], NoDecode] = Field(
        (),
        description="Comma-separated folders in which each model folder and each `.safetensors` "
        "file is a model, loaded when a request names it.",
    )
    model_idle_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="A model of `model_folders` that was not used for so long is unloaded; never "
        "if absent.",
    )
    max_loaded: int | None = Field(
        None,
        ge=1,
        le=256,
        description="Models loaded at once; the least recently used of `model_folders` leaves for "
        "another. No limit if absent.",
    )

    @field_validator("model_folders", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return split(value) if isinstance(value, str) else value

    @field_validator("model_folders")
    @classmethod
    def _are_folders(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        made = tuple(folder.expanduser().absolute() for folder in folders)
        for folder in made:
            if not folder.is_dir() or not str(folder).isprintable():
                raise ValueError(f"{brief(str(folder))} is no folder; allowed: paths of folders")
        return made

    @property
    def keeping(self) -> Keeping:
        """Which models come and go."""
        return Keeping(self.model_folders, self.model_idle_seconds, self.max_loaded)
