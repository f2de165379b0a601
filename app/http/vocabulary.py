"""The vocabulary of the OpenAPI document: headers, errors and events, as all routes tell them."""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from app.errors import MEDIA_TYPE, Problem
from app.http.body import JSON

TEMPLATE = "#/components/schemas/{model}"

_FAULTS = {
    400: "The body cannot be read.",
    401: "An API key is needed, and there is none, or a wrong one.",
    403: "A page of a foreign origin asks, the server does not answer to this `Host`, or the key"
    " does not allow it.",
    404: "There is no such model, or no such image.",
    406: "None of the formats in `Accept` can be made.",
    409: "A request with this `Idempotency-Key` is still being answered.",
    410: "The result is no longer kept.",
    413: "The body is too large.",
    415: "The body has a media type that is not supported.",
    422: "A field is wrong: the error names it and says what is allowed.",
    429: "The queue is full, or too long for the deadline, or a limit of the client is reached; see"
    " `Retry-After`.",
    500: "The request failed while it was computed.",
    503: "The models did not load in time, or the server is stopping.",
    504: "The request was not done in time.",
}
DRAWING_FAILS = (404, 429, 500, 503, 504)
HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The client's own id, or a new one.",
        "schema": {"type": "string"},
    },
    "Retry-After": {
        "description": "Seconds to wait, 1 to 120.",
        "schema": {"type": "integer", "minimum": 1, "maximum": 120},
    },
    "X-Seed": {
        "description": "The seed that was used; image k has seed + k.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "X-Image-Id": {
        "description": "The id of the first image, `/images/{id}`, if an address has room for it.",
        "schema": {"type": "string"},
    },
    "X-Generation-Parameters": {
        "description": "What was used, as compact JSON; sent again, it gives the same images. Left "
        "out if it is too long.",
        "schema": {"type": "string"},
    },
    "Warning": {
        "description": "What should be known of the answer: that a prompt was cut, or what is left "
        "out.",
        "schema": {"type": "string"},
    },
    "Server-Timing": {
        "description": "Milliseconds spent in the queue and on denoising, decoding and encoding.",
        "schema": {"type": "string"},
    },
    "Content-Disposition": {
        "description": "A file name, for `curl -OJ`.",
        "schema": {"type": "string"},
    },
    "Content-Location": {
        "description": "Address of the image: `/images/{id}.png`.",
        "schema": {"type": "string"},
    },
    "Cache-Control": {
        "description": "Which caches may store the answer.",
        "schema": {"type": "string"},
    },
    "Vary": {
        "description": "The headers of the request that the answer depends on.",
        "schema": {"type": "string"},
    },
    "Location": {
        "description": "Address of the job.",
        "schema": {"type": "string"},
    },
    "Preference-Applied": {
        "description": "Which of the preferences in `Prefer` was followed.",
        "schema": {"type": "string"},
    },
    "ETag": {
        "description": "Identifies exactly these bytes, made by this machine; for If-None-Match.",
        "schema": {"type": "string"},
    },
}


def ref(model: type[BaseModel]) -> dict[str, str]:
    """Where the document has a model's schema."""
    return {"$ref": TEMPLATE.format(model=model.__name__)}


WRONG: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "The request is wrong.",
        "content": {MEDIA_TYPE: {"schema": ref(Problem)}},
    }
}


def headers(*names: str) -> dict[str, Any]:
    """Headers of a response, by name."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses that are problem details."""
    content = {MEDIA_TYPE: {"schema": ref(Problem)}}
    return {status: _fault(status) | {"content": content} for status in sorted(statuses)}


def envelopes(model: type[BaseModel], *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses that are errors in a dialect's own envelope."""
    return {status: _fault(status) | {"model": model} for status in sorted(statuses)}


def _fault(status: int) -> dict[str, Any]:
    told = headers("Retry-After") if status == 429 else headers()
    return {"description": _FAULTS[status], "headers": told}


def event_schema(kinds: Mapping[str, type[BaseModel]]) -> dict[str, Any]:
    """One event of a stream: its name, and its data, which is JSON."""
    return {
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "enum": list(kinds)},
            "data": {
                "type": "string",
                "contentMediaType": JSON,
                "contentSchema": {"oneOf": [ref(model) for model in kinds.values()]},
            },
        },
    }


def operation(
    operation_id: str,
    summary: str,
    responses: Mapping[int | str, dict[str, Any]],
    **extra: Any,
) -> dict[str, Any]:
    """A route's description, as the arguments of its decorator."""
    return {
        "operation_id": operation_id,
        "summary": summary,
        "response_class": Response,
        "responses": dict(responses),
        "openapi_extra": extra,
    }
