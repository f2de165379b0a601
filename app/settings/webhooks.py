"""Calls to the addresses that jobs name."""

import base64
import binascii
from typing import Annotated

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode

from app.http.addresses import Allowance
from app.settings.lists import listed

_SECRET_PREFIX = "whsec_"
_SECRET_BYTES = range(24, 65)  # by the specification of Standard Webhooks


class WebhookSettings(BaseSettings):
    """Calls to the addresses that jobs name."""

    webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Comma-separated secrets that sign calls, each `whsec_` and base64; every call "
        "is signed with all. Without any, jobs with a webhook are refused.",
    )
    webhook_unsigned: bool = Field(
        False, description="Make calls without a signature where there is no secret."
    )
    webhook_allow: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated hosts, addresses and networks that may be called though they "
        "are not public.",
    )
    webhook_attempts: int = Field(
        8, ge=1, le=20, description="How often a receiver is called that does not answer with 2xx."
    )
    webhook_retry_seconds: float = Field(
        5,
        gt=0,
        le=3600,
        allow_inf_nan=False,
        description="Time from the first failure to the second attempt; each later wait is five "
        "times as long, up to four hours.",
    )
    webhook_timeout_seconds: float = Field(
        10, gt=0, le=300, allow_inf_nan=False, description="Time for one attempt."
    )
    webhook_calls: int = Field(64, ge=1, le=1024, description="Calls under way at once.")
    webhook_host_calls: int = Field(
        4, ge=1, le=1024, description="Calls under way at once to one host."
    )
    webhook_client_calls: int = Field(
        16, ge=1, le=1024, description="Calls under way at once for the jobs of one client."
    )
    webhook_kept_seconds: float = Field(
        7 * 24 * 3600,
        ge=1,
        le=366 * 24 * 3600,
        allow_inf_nan=False,
        description="How long it is kept what came of a call.",
    )

    @field_validator("webhook_secrets", "webhook_allow", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        return listed(value)

    @field_validator("webhook_secrets")
    @classmethod
    def _secrets(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Refuse what is no secret of a webhook; it is never told."""
        for secret in secrets:
            text = secret.get_secret_value()
            try:
                bytes_ = len(base64.b64decode(text.removeprefix(_SECRET_PREFIX), validate=True))
            except (binascii.Error, ValueError):  # not base64, or not ASCII
                bytes_ = 0
            if not text.startswith(_SECRET_PREFIX) or bytes_ not in _SECRET_BYTES:
                raise ValueError(
                    "a secret is none; allowed: whsec_ and 24 to 64 random bytes in base64, as by "
                    "echo whsec_$(openssl rand -base64 32)"
                )
        return secrets

    @field_validator("webhook_allow")
    @classmethod
    def _allowed(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        Allowance.of(entries)
        return entries
