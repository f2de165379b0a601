"""Routes without detours, and whose GET can be asked for its headers alone."""

import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """FastAPI's, but a function that returns a `Response` is called with the request at once.

    It takes the request and parts of the path, as text: to resolve dependencies takes longer than
    to draw up an answer, so a function that has some is called as FastAPI does. FastAPI describes
    it in the document.
    """

    def get_route_handler(self) -> Handler:
        """What serves a request."""
        endpoint = self.endpoint
        direct = inspect.signature(endpoint).return_annotation is Response
        if not direct or self.dependant.dependencies:
            return super().get_route_handler()

        async def handle(request: Request) -> Response:
            response: Response = await endpoint(request, **request.path_params)
            return response

        return handle


class Router(APIRouter):
    """FastAPI's, but every GET is a HEAD too (RFC 9110, 9.3.2): the server drops the body."""

    def __init__(self, *, route_class: type[Route] = Route, **options: Any) -> None:
        super().__init__(route_class=route_class, **options)

    def get(self, path: str, **options: Any) -> Callable[..., Any]:
        """Add a route; options are those of `APIRouter.get`."""
        return self.api_route(path, methods=["GET", "HEAD"], **options)
