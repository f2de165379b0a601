"""Models that come and go."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.engine.keeping import Keeping
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

    model_turn_seconds: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="If all of those are busy, one that was waited for so long gets the place of "
        "the one that was loaded first, once that has had so long as well and has answered what it "
        "began.",
    )

    @field_validator("model_folders", mode="before")
    @classmethod
    def _split_folders(cls, value: object) -> object:
        return split(value) if isinstance(value, str) else value

    @field_validator("model_folders")
    @classmethod
    def _are_folders(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        return tuple(dict.fromkeys(map(_folder, folders)))

    @property
    def keeping(self) -> Keeping:
        """Which models come and go."""
        return Keeping(
            self.model_folders, self.model_idle_seconds, self.max_loaded, self.model_turn_seconds
        )


def _folder(given: Path) -> Path:
    """The absolute path of a folder; raises ValueError if there is none that may be read."""
    told = brief(str(given))
    try:
        path = given.expanduser().absolute()
        there = path.is_dir() and str(path).isprintable()
    except PermissionError:  # of a folder above
        raise ValueError(f"{told} is in a folder that this user may not look into") from None
    except (OSError, RuntimeError):  # too long, or an unknown user's home
        there = False
    if not there:
        raise ValueError(f"{told} is no folder; allowed: paths of folders")
    effective = os.access in os.supports_effective_ids
    if not os.access(path, os.R_OK | os.X_OK, effective_ids=effective):
        raise ValueError(f"{told} may not be read by this user; allowed: folders that may")
    return path
