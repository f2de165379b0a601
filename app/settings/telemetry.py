"""Metrics, spans and the log."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings

from app.engine.lines import LogFormat


class TelemetrySettings(BaseSettings):
    """Metrics, spans and the log."""

    metrics: Literal["open", "key", "off"] = Field(
        "open", description="Who may read /metrics: anybody, those with the admin key, nobody."
    )
    log_format: LogFormat = Field("text", description="Lines for people, or JSON objects.")
    log_requests: bool = Field(
        True, description="One line of the log for each request that draws or is refused."
    )
    log_prompts: bool = Field(False, description="What was asked for is in these lines, too.")
