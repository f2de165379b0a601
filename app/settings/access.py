"""Keys, rates, and limits on what one request may ask."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from app.access.allowance import MOST, Allowance, Rate, read_rate
from app.access.keyring import Keyring, read_file, read_hash
from app.access.keys import ADMIN, Key, read_keys, read_secret
from app.access.limits import MAX_EVALUATIONS, MAX_PIXELS, RequestLimits
from app.engine.job import MAX_IMAGES, MAX_STEPS


class AccessSettings(BaseSettings):
    """Keys, rates, and limits on what one request may ask.

    Keys become their hashes here: no setting holds one.
    """

    api_keys: Annotated[tuple[Key, ...], NoDecode] = Field(
        (),
        description="Comma-separated keys: `name: sha256:...` or `name: key`, and after each what "
        "differs for it: `rate=`, `concurrency=`, `max_priority=`, `admin`.",
    )
    api_keys_file: Path | None = Field(
        None, description="A file of keys, one per line, as hashes; read again when it changes."
    )
    admin_key: Annotated[bytes | None, NoDecode] = Field(
        None, repr=False, description="The key for what changes the server: `sha256:...` or itself."
    )
    admin_key_file: Path | None = Field(
        None, description="A file whose first line is the hash of the admin key."
    )
    rate: Annotated[Rate | None, NoDecode] = Field(
        None,
        description="Evaluations that one client may begin in a time, such as `20000/minute`.",
    )
    concurrency: int | None = Field(
        None, ge=1, le=MOST, description="Evaluations of one client waiting or running at once."
    )
    max_pixels: int = Field(MAX_PIXELS, ge=1, le=MAX_PIXELS, description="Pixels of one image.")
    max_steps: int = Field(MAX_STEPS, ge=1, le=MAX_STEPS, description="Steps of one request.")
    max_images: int = Field(MAX_IMAGES, ge=1, le=MAX_IMAGES, description="Images of one request.")
    max_evaluations: int = Field(
        MAX_EVALUATIONS,
        ge=1,
        le=MAX_EVALUATIONS,
        description="Evaluations of one request: images times steps, twice that where guided.",
    )
    max_streams: int = Field(
        512, ge=1, description="Event streams of one client that are open; a quarter more in all."
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _read_keys(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return read_keys(value.replace(",", "\n").splitlines(), plain=True, each="key")

    @field_validator("api_keys_file")
    @classmethod
    def _readable_keys(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_file(path)
        return path

    @field_validator("admin_key_file")
    @classmethod
    def _readable_hash(cls, path: Path | None) -> Path | None:
        if path is not None:
            read_hash(path)
        return path

    @field_validator("admin_key", mode="before")
    @classmethod
    def _read_admin_key(cls, value: object) -> object:
        return read_secret(value.strip(), plain=True) if isinstance(value, str) else value

    @field_validator("rate", mode="before")
    @classmethod
    def _read_rate(cls, value: object) -> object:
        return read_rate(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _whole(self) -> "AccessSettings":
        """Refuse two names or hashes that are the same."""
        if self.admin_key is not None and self.admin_key_file is not None:
            raise ValueError("DARKROOM_ADMIN_KEY and DARKROOM_ADMIN_KEY_FILE cannot both be set")
        self.keyring()
        return self

    @property
    def allowance(self) -> Allowance:
        """What a client may use whose key does not say."""
        return Allowance(self.rate, self.concurrency)

    @property
    def request_limits(self) -> RequestLimits:
        """The most that one request may ask for."""
        return RequestLimits(self.max_pixels, self.max_steps, self.max_images, self.max_evaluations)

    def keyring(self) -> Keyring:
        """All keys, from both settings and files; raises `ValueError`."""
        return Keyring(self.api_keys, self.api_keys_file, self._admin())

    def _admin(self) -> Key | None:
        if self.admin_key is not None:
            return Key(ADMIN, self.admin_key, admin=True)
        if self.admin_key_file is not None:
            return Key(ADMIN, read_hash(self.admin_key_file), admin=True)
        return None
