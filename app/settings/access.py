"""Keys, rates, and limits on what one request may ask."""

from pydantic_settings import BaseSettings


class AccessSettings(BaseSettings):
    """Keys, rates, and limits on what one request may ask."""
