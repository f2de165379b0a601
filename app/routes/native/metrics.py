"""/metrics: what Prometheus reads."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from app.dependencies import AdminDep
from app.http.negotiation import all_lines, negotiate
from app.http.routing import Router
from app.http.vocabulary import WRONG, headers
from app.telemetry.metrics import Metrics

_TEXT, _OPEN = "text/plain", "application/openmetrics-text"
_TYPES = {  # what is said of the body; the versions are those that every Prometheus reads
    _TEXT: f"{_TEXT}; version=0.0.4; charset=utf-8",
    _OPEN: f"{_OPEN}; version=1.0.0; charset=utf-8",
}
_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus' text format, or OpenMetrics.",
        "headers": headers(),
        "content": {media_type: {"schema": {"type": "string"}} for media_type in _TYPES},
    },
    **WRONG,
}


def _page(request: Request) -> PlainTextResponse:
    media_type = negotiate(all_lines(request.headers, "accept"), tuple(_TYPES))
    metrics: Metrics = request.app.state.metrics
    write = openmetrics.generate_latest if media_type == _OPEN else generate_latest
    answer_headers = {"Content-Type": _TYPES[media_type], "Cache-Control": "no-store"}
    return PlainTextResponse(write(metrics.registry), headers=answer_headers | {"Vary": "Accept"})


async def _open(request: Request) -> Response:
    """Everything that is counted, as Prometheus reads it; docs/metrics.md lists it."""
    return _page(request)


# Not `-> Response`: such functions are called without their dependencies (http/routing.py).
async def _with_key(request: Request, admin: AdminDep) -> PlainTextResponse:  # noqa: ARG001
    """Everything that is counted, for those who have the admin key; docs/metrics.md lists it."""
    return _page(request)


def router(access: str) -> Router:
    """The route for what `DARKROOM_METRICS` says: open, key or off."""
    found = Router(tags=["operations"])
    if access != "off":
        found.get(
            "/metrics",
            operation_id="readMetrics",
            summary="Read counters and gauges, for Prometheus",
            response_class=Response,
            responses=_RESPONSES,
        )(_open if access == "open" else _with_key)
    return found
