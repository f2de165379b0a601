"""What is the same in all of AUTOMATIC1111's API: how errors are told, how bodies are described."""

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from app.errors import Fault
from app.http import vocabulary
from app.http.body import JSON
from app.routes.automatic1111.schemas import ErrorBody


def envelope(fault: Fault) -> Response:
    """A fault as the web UI tells it."""
    body = ErrorBody.of(fault).model_dump()
    headers = dict(fault.headers)
    if fault.status == 401:  # its clients know user names and passwords
        headers["WWW-Authenticate"] = 'Basic realm="darkroom"'
    return JSONResponse(body, fault.status, headers)


BODY = (400, 413, 415, 422)


def errors_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses of a route that are errors."""
    return vocabulary.envelopes(ErrorBody, *statuses)


def body_of(schema: dict[str, Any], **example: object) -> dict[str, Any]:
    """What a route's body is, for the document; it reads that itself."""
    content = {JSON: {"schema": schema, **({"example": example} if example else {})}}
    return {"requestBody": {"required": True, "content": content}}
