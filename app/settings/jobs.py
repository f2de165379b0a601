"""Jobs that outlive a request, and where their results are kept."""

from pydantic_settings import BaseSettings


class JobsSettings(BaseSettings):
    """Jobs that outlive a request, and where their results are kept."""
