"""Jobs that outlive a request, and where their results are kept."""

import os
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

_POSTGRES = ("postgresql", "postgres", "postgresql+psycopg")
_YEAR = 366 * 24 * 3600


class JobsSettings(BaseSettings):
    """Jobs that outlive a request, and where their results are kept."""

    state_folder: Path | None = Field(
        None,
        description="Folder of the server's own database. If absent, `darkroom` in the folder for "
        "state of the user's programs: `$XDG_STATE_HOME`, or `~/.local/state`.",
    )
    database: SecretStr | None = Field(
        None,
        description="Where jobs are stored, as an address of SQLAlchemy: postgresql:// or "
        "sqlite:///. If absent, `jobs.db` in the state folder.",
    )
    jobs_per_client: int = Field(
        1000, ge=1, le=10**6, description="Jobs of one client that wait or run at once."
    )
    jobs_in_all: int = Field(
        10_000, ge=1, le=10**6, description="Jobs of all clients that wait or run at once."
    )
    jobs_evaluations_per_client: int = Field(
        1_000_000,
        ge=1,
        le=10**12,
        description="Evaluations of the network in all jobs of one client that wait or run.",
    )
    jobs_evaluations_in_all: int = Field(
        10_000_000,
        ge=1,
        le=10**12,
        description="Evaluations of the network in all jobs that wait or run.",
    )
    jobs_lease_seconds: float = Field(
        15,
        ge=1,
        le=3600,
        allow_inf_nan=False,
        description="A server that is silent for so long has lost its jobs to the others.",
    )
    jobs_keep_seconds: float = Field(
        7 * 24 * 3600,
        ge=1,
        le=_YEAR,
        allow_inf_nan=False,
        description="How long jobs that have ended can be asked for.",
    )
    results: str | None = Field(
        None,
        description="Folder or bucket for the files of results: file:///PATH, s3://BUCKET/PREFIX. "
        "They are in the database if absent.",
    )
    results_signed: bool = Field(
        False, description="Send clients on to signed addresses of the bucket for results."
    )
    results_seconds: float = Field(
        24 * 3600,
        ge=1,
        le=_YEAR,
        allow_inf_nan=False,
        description="How long results are kept.",
    )
    results_bytes: int = Field(
        1 << 30, ge=1, description="Bytes of results that are kept; the oldest go first."
    )
    idempotency_seconds: float = Field(
        24 * 3600,
        ge=1,
        le=_YEAR,
        allow_inf_nan=False,
        description="How long the answer to a request with an Idempotency-Key is kept.",
    )
    idempotency_keys: int = Field(
        10_000, ge=1, le=10**6, description="Keys that are kept of one client; the oldest go first."
    )
    idempotency_bytes_per_client: int = Field(
        1 << 26,
        ge=1 << 20,
        description="Bytes of the answers with an Idempotency-Key that are kept of one client, and "
        "of its streams that are recorded at once. The oldest go first.",
    )
    idempotency_bytes_in_all: int = Field(
        1 << 28, ge=1 << 20, description="The same of all clients together."
    )

    @field_validator("database")
    @classmethod
    def _known_database(cls, given: SecretStr | None) -> SecretStr | None:
        """Refuse what is no address of a database; the address itself is never told."""
        if given is None:
            return None
        scheme, _, rest = given.get_secret_value().partition("://")
        if scheme in _POSTGRES and rest:
            if find_spec("psycopg") is None:
                raise ValueError("PostgreSQL needs psycopg: pip install 'darkroom[postgres]'")
            return SecretStr(f"postgresql+psycopg://{rest}")
        if scheme != "sqlite" or not rest.startswith("/") or len(rest) < 2:
            allowed = "postgresql://USER:PASSWORD@HOST/NAME, or sqlite:////PATH"
            raise ValueError(f"must be an address of a database; allowed: {allowed}")
        return given

    @field_validator("results")
    @classmethod
    def _known_results(cls, given: str | None) -> str | None:
        if given is None:
            return None
        scheme, _, rest = given.partition("://")
        if scheme not in ("file", "s3") or not rest or (scheme == "file" and rest[0] != "/"):
            raise ValueError("must be a folder or a bucket: file:///PATH, or s3://BUCKET/PREFIX")
        if scheme == "s3" and find_spec("s3fs") is None:
            raise ValueError("S3 needs s3fs: pip install 'darkroom[s3]'")
        return given.rstrip("/")

    @property
    def database_url(self) -> str | None:
        """The address of the database; None where no place for it is known."""
        if self.database is not None:
            return self.database.get_secret_value()
        folder = self.state_folder or _state_of_user()
        return None if folder is None else f"sqlite:///{folder.absolute() / 'jobs.db'}"


def _state_of_user() -> Path | None:
    """The folder for our state, by the XDG base directories; None for a user without a home."""
    if told := os.environ.get("XDG_STATE_HOME"):
        return Path(told) / "darkroom"
    try:
        return Path.home() / ".local" / "state" / "darkroom"
    except RuntimeError:
        return None
