"""Every error a client can meet, and the one table from exception to RFC 9457 problem details.

RequestError            what the client sent
+-- InvalidRequest      a field is wrong; 422
+-- UnknownModel        not loaded; 404
+-- NotAcceptable       no such format; 406
EngineError             what the engine could not do: app/engine/job.py
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.engine.job import (
    DeadlineExceeded,
    DeadlineTooShort,
    EngineBusy,
    EngineError,
    EngineUnavailable,
    GenerationFailed,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_MOST_ERRORS, _LONGEST_NAME = 16, 64  # of a wrong request's fields, that are told back


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
    DeadlineTooShort: (422, "Deadline too short"),
    DeadlineExceeded: (504, "Deadline exceeded"),
    EngineUnavailable: (503, "Not ready"),
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


def install(app: FastAPI, allowed: Mapping[str, str]) -> None:
    """Make every error of the application a problem details response.

    `allowed` says in words what each field of a request body may be.
    """

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _invalid(error, allowed)

    for kind in (RequestError, EngineError):
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


async def _known(_: Request, error: Exception) -> Response:
    status, title = STATUS[type(error)]
    errors = None
    if isinstance(error, InvalidRequest):
        errors = [FieldError(detail=error.detail, pointer=_pointer(error.field))]
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, EngineBusy) else None
    return problem(status, title, str(error), errors, headers)


def _invalid(error: RequestValidationError, allowed: Mapping[str, str]) -> Response:
    """One entry a wrong field, with a JSON pointer (RFC 6901); values are not echoed."""
    found = error.errors()
    if broken := next((entry for entry in found if entry["type"] == "json_invalid"), None):
        reason = broken.get("ctx", {}).get("error", "not readable")
        place = broken["loc"][-1]  # the character, counted from 0
        return problem(400, "Broken JSON", f"the body is not JSON: {reason} at character {place}")
    wrong: dict[str, str] = {}
    for entry in found:
        # loc is ("body", field, ...), where a union's branches ("int") may follow the field.
        field = str(entry["loc"][1]) if len(entry["loc"]) > 1 else ""
        if not field:
            wrong[field] = "a JSON object is needed, sent as content-type: application/json"
        elif field in allowed:
            wrong[field] = f"must be {allowed[field]}"
        else:
            wrong[field] = f"unknown field; allowed: {', '.join(allowed)}"
    told = [(name[:_LONGEST_NAME], text) for name, text in wrong.items()][:_MOST_ERRORS]
    errors = [FieldError(detail=text, pointer=_pointer(field)) for field, text in told]
    detail = "; ".join(f"{field or 'body'}: {text}" for field, text in told)
    if len(wrong) > len(told):
        detail += f"; and {len(wrong) - len(told)} more"
    return problem(422, "Invalid request", detail, errors)


def _pointer(field: str) -> str:
    return "#/" + field.replace("~", "~0").replace("/", "~1") if field else "#"


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    title = HTTPStatus(error.status_code).phrase
    return problem(error.status_code, title, error.detail, headers=headers)


async def _unknown(_request: Request, _error: Exception) -> Response:
    return problem(500, "Internal server error", "something failed here; the log says what")
