"""Models that come and go."""

from pydantic_settings import BaseSettings


class FleetSettings(BaseSettings):
    """Models that come and go."""
