"""Errors as answers: problem details (RFC 9457) where a route is ours, or a dialect's envelope."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Scope

from app.engine.errors import EngineError
from app.errors import MEDIA_TYPE, Fault, JobError, Problem, RequestError, fault_of
from app.http.proxies import route_path
from app.http.routing import Handler, Route
from app.telemetry.account import refuse

log = logging.getLogger(__name__)

Envelope = Callable[[Fault], Response]
_FORESEEN = (RequestError, EngineError, JobError, RequestValidationError, HTTPException)


def problem(fault: Fault) -> Response:
    """A problem details response."""
    refuse(fault.reason)
    return JSONResponse(
        Problem.of(fault).model_dump(),
        status_code=fault.status,
        headers=dict(fault.headers),
        media_type=MEDIA_TYPE,
    )


def install(app: FastAPI, allow: Callable[[str], set[str]] = lambda _: set()) -> None:
    """Make every error problem details, but for those that a dialect's routes answer their way.

    `allow` gives the methods of a path, because a route that does not match knows only its own.
    """

    async def answer(request: Request, error: Exception) -> Response:
        fault = fault_of(error)
        if fault.status == 405 and (methods := allow(route_path(request.scope))):
            fault = replace(fault, headers={"Allow": ", ".join(sorted(methods))})
        return problem(fault)

    for kind in (*_FORESEEN, Exception):
        app.add_exception_handler(kind, answer)


def envelope_of(routes: Sequence[BaseRoute], scope: Scope) -> Envelope:
    """The form of errors of the route that a request is for: a dialect's own, or ours."""
    for route in routes:
        if route.matches(scope)[0] is not Match.NONE:
            return getattr(route, "envelope", problem)
    return problem


def enveloped(envelope: Envelope) -> type[Route]:
    """A class of routes whose errors are answered in an envelope of their own."""

    class EnvelopedRoute(Route):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self.envelope = envelope

        def get_route_handler(self) -> Handler:
            handle = super().get_route_handler()

            async def handled(request: Request) -> Response:
                try:
                    return await handle(request)
                except _FORESEEN as error:
                    fault = fault_of(error)
                except Exception as error:
                    log.exception("a request failed because of a bug")
                    fault = fault_of(error)
                refuse(fault.reason)
                return envelope(fault)

            return handled

    return EnvelopedRoute
