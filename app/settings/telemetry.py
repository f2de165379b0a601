"""Metrics, spans and the log."""

from pydantic_settings import BaseSettings


class TelemetrySettings(BaseSettings):
    """Metrics, spans and the log."""
