"""Every error a client can meet, and the one table from exception to HTTP.

RequestError            the client's request
+-- BrokenBody          cannot be read; 400
+-- UnsupportedBody     has an unsupported media type; 415
+-- InvalidRequest      has wrong fields; 422
+-- UnknownModel        names a model that is not there; 404
+-- UnknownImage        names an image that no loaded model makes; 404
+-- NotAcceptable       accepts no format that can be made; 406
+-- Unauthenticated     has no key, or a wrong one; 401
+-- Forbidden           has a key that does not allow it; 403
+-- LimitExceeded       is one too many, or too much for now; 429
EngineError             the engine could not do it: app/engine/errors.py
JobError                a job could not be taken, or not be told of
+-- StoreUnavailable    the database of the jobs cannot be used now; 503
+-- TooManyJobs         there is no room for it among those that wait; 429
+-- UnknownJob          there is none of this id, or it is another client's; 404
+-- ResultExpired       its result is no longer kept; 410
+-- KeyInUse            a request with this Idempotency-Key is still being answered; 409
+-- KeyReused           another request had this Idempotency-Key; 422
+-- UnknownEventId      no event of a stream of events has this id; 400

An exception becomes a `Fault`, and a fault becomes an answer in the envelope of whatever dialect
the route speaks: RFC 9457 problem details where it is ours.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import MappingProxyType

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from app.engine.errors import (
    DeadlineExceeded,
    DeadlineTooShort,
    EngineBusy,
    EngineError,
    EngineUnavailable,
    GenerationFailed,
)
from app.engine.model_info import ModelInfo

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS, LONGEST_NAME = 16, 64  # of a wrong request's fields, that are told back
MAX_RETRY_AFTER = 120  # seconds; the OpenAI SDK, for one, gives up on longer waits


class RequestError(Exception):
    """The request cannot be answered as it stands."""


class BrokenBody(RequestError):
    """The body cannot be read."""


class UnsupportedBody(RequestError):
    """The body is of a media type that is not read here."""


class InvalidRequest(RequestError):
    """Fields' values are not allowed: `wrong` says of each what is.

    The fields lie in the object that `within` names, or at the top of the body.
    """

    def __init__(self, wrong: Mapping[str, str], within: str = "") -> None:
        told = dict(list(wrong.items())[:MOST_ERRORS])
        self.wrong = {name[:LONGEST_NAME]: detail for name, detail in told.items()}
        self.within = within
        more = f"; and {len(wrong) - len(told)} more" if len(wrong) > len(told) else ""
        said = "; ".join(f"{name or 'body'}: {detail}" for name, detail in self.wrong.items())
        super().__init__(said + more)


class UnknownModel(RequestError):
    """There is no such model."""


def model_of(name: str, models: Mapping[str, ModelInfo]) -> ModelInfo:
    """The model of this name.

    Raises:
        UnknownModel: nobody knows it.
        EngineUnavailable: it did not load, or is not loaded.
    """
    try:
        return models[name]
    except KeyError as error:
        told = f"unknown model {name[:40]!r}; loaded: {', '.join(models)}"
        if others := [other for other in getattr(models, "names", ()) if other not in models]:
            told += f"; not loaded: {', '.join(others)}"
        raise UnknownModel(told) from error


class UnknownImage(RequestError):
    """No loaded model makes an image of this id."""


class NotAcceptable(RequestError):
    """None of the formats the client accepts can be made."""


class Unauthenticated(RequestError):
    """The request needs a key, and has none, or, where it `tried`, a wrong one."""

    def __init__(self, reason: str, *, tried: bool = False) -> None:
        super().__init__(reason)
        self.challenge = 'Bearer realm="darkroom"' + (', error="invalid_token"' if tried else "")


class Forbidden(RequestError):
    """The request is not allowed to those who have its key, or none."""


class LimitExceeded(RequestError):
    """A client's limit is reached; there is room in `wait` seconds, by now."""

    def __init__(
        self, reason: str, wait: int, headers: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        super().__init__(reason)
        self.retry_after, self.headers = min(max(wait, 1), MAX_RETRY_AFTER), headers


class JobError(Exception):
    """A job could not be taken, or not be told of; `retry_after` is in seconds, if known."""

    retry_after: int | None = None


class StoreUnavailable(JobError):
    """The database cannot be used now."""

    def __init__(self, reason: str, retry_after: int = 5) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class TooManyJobs(JobError):
    """No room among the jobs that wait."""

    def __init__(self, reason: str, retry_after: int) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class UnknownJob(JobError):
    """There is no such job of this client."""


class ResultExpired(JobError):
    """The result is no longer kept."""


class KeyInUse(JobError):
    """A request with this key is being answered."""

    retry_after = 1


class KeyReused(JobError):
    """Another request had this key."""


class UnknownEventId(JobError):
    """No event of a stream has this id."""


STATUS: dict[type[Exception], tuple[int, str]] = {
    BrokenBody: (400, "Broken body"),
    UnsupportedBody: (415, "Unsupported media type"),
    InvalidRequest: (422, "Invalid request"),
    UnknownModel: (404, "Unknown model"),
    UnknownImage: (404, "Unknown image"),
    NotAcceptable: (406, "Not acceptable"),
    Unauthenticated: (401, "Unauthorized"),
    Forbidden: (403, "Forbidden"),
    LimitExceeded: (429, "Limit exceeded"),
    EngineBusy: (429, "Too many requests"),
    DeadlineTooShort: (422, "Deadline too short"),
    DeadlineExceeded: (504, "Deadline exceeded"),
    EngineUnavailable: (503, "Not ready"),
    GenerationFailed: (500, "Generation failed"),
    StoreUnavailable: (503, "Jobs unavailable"),
    TooManyJobs: (429, "Too many jobs"),
    UnknownJob: (404, "Unknown job"),
    ResultExpired: (410, "Result expired"),
    KeyInUse: (409, "Idempotency key in use"),
    KeyReused: (422, "Idempotency key reused"),
    UnknownEventId: (400, "Unknown event id"),
}

_LATER = EngineBusy | EngineUnavailable | LimitExceeded | JobError  # may be taken if asked again


_REASON: dict[type[Exception], str] = {  # where the status alone does not say it
    InvalidRequest: "invalid",
    UnknownModel: "unknown_model",
    UnknownImage: "unknown_image",
    EngineBusy: "busy",
    DeadlineTooShort: "deadline_too_short",
    GenerationFailed: "failed",
}
_REASON_OF_STATUS = {
    400: "unreadable",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    406: "not_acceptable",
    409: "conflict",
    410: "gone",
    413: "too_large",
    414: "too_large",
    415: "unsupported_body",
    422: "invalid",
    429: "rate_limited",
    500: "bug",
    503: "unavailable",
    504: "deadline_exceeded",
}
_OTHER_REASON = "other"
# Why requests are refused, or fail, as metrics and the log name it.
REASONS = tuple(sorted({*_REASON.values(), *_REASON_OF_STATUS.values(), _OTHER_REASON}))


@dataclass(frozen=True)
class Fault:
    """What went wrong, in no dialect: `wrong` says of each wrong field what is allowed."""

    status: int
    title: str
    detail: str
    wrong: Mapping[str, str] = field(default_factory=dict)
    within: str = ""  # the object that has the fields; the body itself where empty
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: type[Exception] = Exception  # what it is the answer to

    @property
    def reason(self) -> str:
        """One of `REASONS`."""
        return _REASON.get(self.kind) or _REASON_OF_STATUS.get(self.status, _OTHER_REASON)


class FieldError(BaseModel):
    """One wrong place in the request: a JSON pointer (RFC 6901) and what is wrong there."""

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

    @classmethod
    def of(cls, fault: Fault) -> "Problem":
        """A fault as problem details."""
        errors = [
            FieldError(detail=detail, pointer=_pointer(fault.within, name))
            for name, detail in fault.wrong.items()
        ]
        return cls(
            title=fault.title,
            status=fault.status,
            detail=fault.detail,
            error=fault.detail,
            errors=errors,
        )


def fault_of(error: Exception) -> Fault:
    """What to tell a client of an exception; of one that nobody foresaw, nothing."""
    if isinstance(error, RequestError | EngineError | JobError):
        status, title = STATUS[type(error)]
        wrong, within = {}, ""
        if isinstance(error, InvalidRequest):
            wrong, within = error.wrong, error.within
        headers: dict[str, str] = {}
        if isinstance(error, Unauthenticated):
            headers["WWW-Authenticate"] = error.challenge
        if isinstance(error, LimitExceeded):
            headers |= error.headers
        if isinstance(error, _LATER) and error.retry_after is not None:
            headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, NotAcceptable):
            headers["Vary"] = "Accept"
        return Fault(status, title, str(error), wrong, within, headers, type(error))
    if isinstance(error, RequestValidationError):
        return fault_of(_read(error))
    if isinstance(error, HTTPException):
        title = HTTPStatus(error.status_code).phrase
        return Fault(error.status_code, title, error.detail, headers=dict(error.headers or {}))
    return Fault(500, "Internal server error", "the server failed; its log says why")


def _read(error: RequestValidationError) -> RequestError:
    """What FastAPI found wrong, in our words; values are not echoed."""
    found = error.errors()
    if broken := next((entry for entry in found if entry["type"] == "json_invalid"), None):
        reason = broken.get("ctx", {}).get("error", "not readable")
        place = broken["loc"][-1]  # the character, counted from 0
        return BrokenBody(f"the body is not JSON: {reason} at character {place}")
    wrong: dict[str, str] = {}
    for entry in found:
        # loc is ("body", field, ...), where a union's branches ("int") may follow the field.
        name = str(entry["loc"][1]) if len(entry["loc"]) > 1 else ""
        missing = "a JSON object is needed, sent as content-type: application/json"
        wrong.setdefault(name, str(entry["msg"]) if name else missing)
    return InvalidRequest(wrong)


def _pointer(*names: str) -> str:
    escaped = (name.replace("~", "~0").replace("/", "~1") for name in names if name)
    return "/".join(("#", *escaped))
