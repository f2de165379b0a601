"""Every error a client can meet, and the one table from exception to RFC 9457 problem details.

RequestError            what the client sent
+-- InvalidRequest      a field is wrong; 422
+-- UnknownModel        not loaded; 404
+-- NotAcceptable       no such format; 406
EngineError             what the engine could not do: app/engine/job.py
"""

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.engine.job import (
    EngineBusy,
    EngineError,
    EngineUnavailable,
    GenerationFailed,
    LoadFailed,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class RequestError(Exception):
    """The request cannot be answered as it stands."""


class InvalidRequest(RequestError):
    """A field's value is not allowed."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field, self.detail = field, detail


class UnknownModel(RequestError):
    """The model is not loaded."""


class NotAcceptable(RequestError):
    """None of the formats the client accepts can be made."""


STATUS: dict[type[Exception], tuple[int, str]] = {
    InvalidRequest: (422, "Invalid request"),
    UnknownModel: (404, "Unknown model"),
    NotAcceptable: (406, "Not acceptable"),
    EngineBusy: (429, "Too many requests"),
    EngineUnavailable: (503, "Not ready"),
    LoadFailed: (503, "Not ready"),
    GenerationFailed: (500, "Generation failed"),
}


class FieldError(BaseModel):
    """One wrong place in the request: a JSON pointer and what is wrong there."""

    detail: str
    pointer: str


class Problem(BaseModel):
    """RFC 9457. `error` repeats the detail for clients that look for it there."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    error: str
    errors: list[FieldError] = []


def problem(
    status: int,
    title: str,
    detail: str,
    errors: list[FieldError] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A problem details response."""
    body = Problem(title=title, status=status, detail=detail, error=detail, errors=errors or [])
    return JSONResponse(
        body.model_dump(), status_code=status, headers=headers, media_type=MEDIA_TYPE
    )


def install(app: FastAPI) -> None:
    """Make every error of the application a problem details response."""
    for kind in (RequestError, EngineError):
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> Response:
    status, title = STATUS[type(error)]
    errors = None
    if isinstance(error, InvalidRequest):
        errors = [FieldError(detail=error.detail, pointer=f"#/{error.field}")]
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, EngineBusy) else None
    return problem(status, title, str(error), errors, headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(entry["type"] == "json_invalid" for entry in found):
        reason = found[0].get("ctx", {}).get("error", "")
        return problem(400, "Broken JSON", f"the body is not JSON: {reason}")
    errors = _merge([_field_error(entry) for entry in found])
    detail = "; ".join(f"{entry.pointer[2:] or 'body'}: {entry.detail}" for entry in errors)
    return problem(422, "Invalid request", detail, errors)


def _field_error(entry: Any) -> FieldError:
    """A pydantic error as a JSON pointer (RFC 6901) into the body; no input is echoed."""
    # A union's branches ("class", "str") are places in the schema, not in the body.
    path = entry["loc"][1:2] if entry["loc"][0] == "body" else entry["loc"]
    pointer = "#/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in path)
    message = str(entry["msg"])
    if entry["type"] == "extra_forbidden":
        message = "unknown field; allowed: class, steps, guidance_scale, eta, seed, n, model"
    return FieldError(detail=message, pointer=pointer if path else "#")


def _merge(errors: list[FieldError]) -> list[FieldError]:
    """One entry a place: what a union's branches say is joined by `or`."""
    merged: dict[str, list[str]] = {}
    for error in errors:
        merged.setdefault(error.pointer, []).append(error.detail)
    return [
        FieldError(detail=" or ".join(details), pointer=pointer)
        for pointer, details in merged.items()
    ]


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    return problem(error.status_code, error.detail, error.detail, headers=headers)


async def _unknown(_request: Request, _error: Exception) -> Response:
    return problem(500, "Internal server error", "something failed here; the log says what")
