"""Calls to the addresses that jobs name."""

from pydantic_settings import BaseSettings


class WebhookSettings(BaseSettings):
    """Calls to the addresses that jobs name."""
