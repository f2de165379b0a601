"""Settings of the server, from DARKROOM_* environment variables; read once, then frozen."""

from app.settings.all import Settings

__all__ = ["Settings"]
