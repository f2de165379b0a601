"""What is the same in all of AUTOMATIC1111's API: how errors are told, how bodies are described."""

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from app import docs
from app.errors import Fault
from app.reading import JSON
from app.routes.automatic1111_schemas import ErrorBody


def envelope(fault: Fault) -> Response:
    """A fault as the web UI tells it."""
    body = ErrorBody.of(fault).model_dump()
    return JSONResponse(body, fault.status, dict(fault.headers))


_ERRORS = {
    400: "The body cannot be read.",
    404: "No such model.",
    413: "The body is too large.",
    415: "The body is of a type that is not read.",
    422: "A field is wrong.",
    429: "The queue is full, or too long for the deadline; see `Retry-After`.",
    500: "The request failed on the way.",
    503: "The models are not loaded.",
    504: "Not done in time.",
}
BODY, DRAWN = (400, 413, 415, 422), (404, 429, 500, 503, 504)


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of a route that are errors."""
    return {
        status: {
            "model": ErrorBody,
            "description": _ERRORS[status],
            "headers": docs.headers("Retry-After") if status == 429 else docs.headers(),
        }
        for status in sorted(statuses)
    }


def body_of(schema: dict[str, Any], **example: object) -> dict[str, Any]:
    """What a route's body is, for the document; it reads that itself."""
    content = {JSON: {"schema": schema, **({"example": example} if example else {})}}
    return {"requestBody": {"required": True, "content": content}}
