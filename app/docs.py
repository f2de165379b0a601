"""The OpenAPI document: what FastAPI cannot read off the routes.

Routes that read their bodies and choose their formats themselves are described here, by constants
that are their decorators' arguments; `document.py` puts all of it together.
"""

from collections.abc import Mapping
from typing import Any

from fastapi import Response
from pydantic import BaseModel

from app import events
from app.answers import IMAGES, ZIP
from app.errors import MEDIA_TYPE, Problem
from app.reading import FORMS, JSON
from app.responses import (
    CompletedEvent,
    GenerateResponse,
    PreviewEvent,
    ProgressEvent,
    QueuedEvent,
)
from app.schemas import GenerateRequest

TEMPLATE = "#/components/schemas/{model}"
_BINARY = {"schema": {"type": "string", "format": "binary"}}

_FAULTS = {
    400: "The body cannot be read.",
    403: "A page of a foreign origin asks, or the server does not answer to this `Host`.",
    404: "There is no such model, or no such image.",
    406: "None of the formats in `Accept` can be made.",
    413: "The body is too large.",
    415: "The body has a media type that is not supported.",
    422: "A field is wrong: the error names it and says what is allowed.",
    429: "The queue is full, or too long for the deadline; see `Retry-After`.",
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
        "description": "The id of the first image: `/images/{id}`.",
        "schema": {"type": "string"},
    },
    "X-Generation-Parameters": {
        "description": "What was used, as compact JSON; sent again, it gives the same images.",
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
    "Vary": {"description": "Always `Accept`.", "schema": {"type": "string"}},
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


_DESCRIBING = (
    "X-Seed",
    "X-Image-Id",
    "X-Generation-Parameters",
    "Content-Disposition",
    "Vary",
    "Cache-Control",
)
_DRAWN: dict[str, Any] = {
    "description": "Images: one as a file, or any number as JSON, a zip or events.",
    "content": {
        **dict.fromkeys(IMAGES, _BINARY),
        JSON: {"schema": ref(GenerateResponse)},
        ZIP: _BINARY,
        events.MEDIA_TYPE: {
            "schema": event_schema(
                {
                    "queued": QueuedEvent,
                    "progress": ProgressEvent,
                    "preview": PreviewEvent,
                    "completed": CompletedEvent,
                    "error": Problem,
                }
            )
        },
    },
    "links": {
        "again": {
            "operationId": "recallImage",
            "parameters": {"name": "$response.header.X-Image-Id"},
            "description": "The first image again.",
        }
    },
    "headers": headers(*_DESCRIBING, "Content-Location", "Server-Timing"),
}
_KEPT: dict[str, Any] = {
    **_DRAWN,
    "headers": headers(*_DESCRIBING, "Content-Location", "Server-Timing", "ETag"),
}
_ONE = {**_KEPT, "description": "The image.", "content": dict.fromkeys(IMAGES, _BINARY)}
_SAME = {
    "description": "The client already has this image.",
    "headers": headers(*_DESCRIBING, "Content-Location", "ETag"),
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "Entity tags of images that the client has.",
    "schema": {"type": "string"},
}
_ACCEPT_REFUSED = (404, 406, 422, 429, 500, 503, 504)
_BODY_REFUSED = (400, 413, 415, *_ACCEPT_REFUSED)
_BODY_EXAMPLES = {
    "digit": {"summary": "A digit", "value": {"class": "7", "steps": 50, "seed": 1}},
    "quick": {"summary": "Ten steps", "value": {"class": "3", "steps": 10}},
    "sixteen": {
        "summary": "Sixteen images",
        "value": {"class": "0", "steps": 20, "n": 16, "seed": 100},
    },
    "ancestral": {
        "summary": "Any digit, with DDPM's noise",
        "value": {"class": None, "steps": 100, "eta": 1.0},
    },
}


def _parameters() -> list[dict[str, Any]]:
    """The fields of a request as a query or a form has them: text, and no null."""
    described = []
    for name, schema in GenerateRequest.model_json_schema()["properties"].items():
        plain = {key: value for key, value in schema.items() if key not in ("title", "description")}
        if options := plain.pop("anyOf", None):  # a query has no null, and all of it is text
            kinds = [option for option in options if option["type"] != "null"]
            plain |= next((k for k in kinds if k["type"] == "string"), kinds[0])
        if plain.get("default", 0) is None:
            del plain["default"]
        listed = plain.get("type") == "array"
        if plain.get("type") != "string":  # an empty value is an absent one
            plain = {"anyOf": [plain, {"const": ""}]}
        parameter = {"name": name, "in": "query", "schema": plain}
        if listed:
            parameter |= {"style": "form", "explode": False}
        described.append(parameter | {"description": schema.get("description", "")})
    return described


def _operation(
    operation_id: str,
    summary: str,
    responses: Mapping[int | str, dict[str, Any]],
    **extra: Any,
) -> dict[str, Any]:
    return {
        "operation_id": operation_id,
        "summary": summary,
        "response_class": Response,
        "responses": dict(responses),
        "openapi_extra": extra,
    }


_FORM = {
    "type": "object",
    "properties": {
        parameter["name"]: parameter["schema"] | {"description": parameter["description"]}
        for parameter in _parameters()
    },
    "additionalProperties": False,
}
_QUERY = [*_parameters(), _IF_NONE_MATCH]
_RECALLED = {200: _KEPT, 304: _SAME, **problems(*_ACCEPT_REFUSED)}
_RECALLED_ONE = {200: _ONE, 304: _SAME, **problems(404, 406, 429, 500, 503, 504)}

GENERATE = _operation(
    "generate",
    "Draw images",
    {200: _DRAWN, **problems(*_BODY_REFUSED)},
    requestBody={
        "required": True,
        "content": {
            JSON: {"schema": ref(GenerateRequest), "examples": _BODY_EXAMPLES},
            **{form: {"schema": _FORM} for form in FORMS},
        },
    },
)
GENERATE_BY_QUERY = _operation("generateByQuery", "Draw images", _RECALLED, parameters=_QUERY)
IMAGE = _operation(
    "recallImage", "Draw an image again by its id", _RECALLED_ONE, parameters=[_IF_NONE_MATCH]
)
HUGGINGFACE = _operation(
    "huggingFaceTextToImage",
    "Draw an image, for Hugging Face's clients",
    {200: _DRAWN, **problems(*_BODY_REFUSED)},
)
