"""Routes whose GET can be asked for its headers alone."""

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter


class Router(APIRouter):
    """FastAPI's, but every GET is a HEAD too (RFC 9110, 9.3.2): the server drops the body."""

    def get(self, path: str, **options: Any) -> Callable[..., Any]:
        """Add a route; options are those of `APIRouter.get`."""
        return self.api_route(path, methods=["GET", "HEAD"], **options)
