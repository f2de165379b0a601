"""The native routes in the OpenAPI document.

They read their bodies and choose their formats themselves, so FastAPI cannot read that off them.
"""

from typing import Any

from app.errors import Problem
from app.http import sse, vocabulary
from app.http.body import FORMS, JSON
from app.http.idempotency import LONGEST
from app.http.idempotency import NAME as IDEMPOTENCY_KEY
from app.http.preferences import NAME as PREFER
from app.http.preferences import RESPOND_ASYNC
from app.jobs.webhooks.asking import NATIVE, WEBHOOK
from app.jobs.webhooks.targets import MAX_URL
from app.routes.jobs.schemas import JobOut
from app.routes.native.answers import IMAGES, ZIP
from app.schemas.requests import GenerateRequest
from app.schemas.responses import (
    CompletedEvent,
    GenerateResponse,
    PreviewEvent,
    ProgressEvent,
    QueuedEvent,
)

# A string of RFC 8941, 3.3.3.
_QUOTED = rf'^"([ !#-\[\]-~]|\\["\\]){{1,{LONGEST}}}"$'
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_DESCRIBING = (
    "X-Seed",
    "X-Image-Id",
    "X-Generation-Parameters",
    "Content-Disposition",
    "Vary",
    "Cache-Control",
    "Warning",
)
_DRAWN: dict[str, Any] = {
    "description": "Images: one as a file, or any number as JSON, a zip or events.",
    "content": {
        **dict.fromkeys(IMAGES, _BINARY),
        JSON: {"schema": vocabulary.ref(GenerateResponse)},
        ZIP: _BINARY,
        sse.MEDIA_TYPE: {
            "schema": vocabulary.event_schema(
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
    "headers": vocabulary.headers(*_DESCRIBING, "Content-Location", "Server-Timing"),
}
_KEPT: dict[str, Any] = {
    **_DRAWN,
    "headers": vocabulary.headers(*_DESCRIBING, "Content-Location", "Server-Timing", "ETag"),
}
_ONE = {**_KEPT, "description": "The image.", "content": dict.fromkeys(IMAGES, _BINARY)}
_SAME = {
    "description": "The client already has this image.",
    "headers": vocabulary.headers(*_DESCRIBING, "Content-Location", "ETag"),
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "description": "Entity tags of images that the client has.",
    "schema": {"type": "string"},
}
_ACCEPTED: dict[str, Any] = {
    "description": f"With `{PREFER}: {RESPOND_ASYNC}`: the job, which is stored by now.",
    "headers": vocabulary.headers(
        "Location", "Preference-Applied", "Retry-After", "Cache-Control", "Vary"
    ),
    "content": {JSON: {"schema": vocabulary.ref(JobOut)}},
    "links": {
        "job": {
            "operationId": "getJob",
            "parameters": {"job_id": "$response.body#/id"},
            "description": "How far it is.",
        }
    },
}
_ASKING_FOR_A_JOB: list[dict[str, Any]] = [
    {
        "name": PREFER,
        "in": "header",
        "description": f"`{RESPOND_ASYNC}`: do not wait for the images, but answer with a job "
        "(RFC 7240). Other preferences are ignored.",
        "schema": {"type": "string"},
        "examples": {"job": {"summary": "A job", "value": RESPOND_ASYNC}},
    },
    {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "A text of the client's own, in quotes. If the same request comes again "
        "with the same key, it gets the answer that was given first, and nothing is drawn "
        "(draft-ietf-httpapi-idempotency-key-header-07).",
        "schema": {"type": "string", "pattern": _QUOTED},
    },
]
_ACCEPT_REFUSED = (404, 406, 422, 429, 500, 503, 504)
_BODY_REFUSED = (400, 413, 415, *_ACCEPT_REFUSED)
_GENERATE_REFUSED = vocabulary.problems(409, *_BODY_REFUSED)
_GENERATE_REFUSED[400]["description"] = (
    f"The body cannot be read, or `{IDEMPOTENCY_KEY}` is not one string in quotes."
)
_GENERATE_REFUSED[422]["description"] += (
    f" Or another request came with the same `{IDEMPOTENCY_KEY}` before."
)
_BODY_EXAMPLES = {
    "digit": {"summary": "A digit", "value": {"class": "7", "steps": 50, "seed": 1}},
    "quick": {"summary": "Ten steps", "value": {"class": "3", "steps": 10}},
    "sixteen": {
        "summary": "Sixteen images",
        "value": {"class": "0", "steps": 20, "n": 16, "seed": 100},
    },
    "prompt": {
        "summary": "A prompt, for models that take one",
        "value": {"prompt": "a photo of a cat", "negative_prompt": "blurry", "steps": 20},
    },
    "ancestral": {
        "summary": "Anything, with DDPM's noise",
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


_FORM = {
    "type": "object",
    "properties": {
        parameter["name"]: parameter["schema"] | {"description": parameter["description"]}
        for parameter in _parameters()
    },
    "additionalProperties": False,
}


def webhook_fields(*, offered: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of a body that name a webhook, as JSON and as a form have them.

    `offered`: whether this server calls any; otherwise they can be left empty alone.
    """
    told = {
        WEBHOOK: "The URL that is called when the job begins or ends; for jobs alone.",
        NATIVE.field: f"When it is called; if absent: {', '.join(NATIVE.default)}.",
    }
    url = {"type": "string", "format": "uri", "maxLength": MAX_URL}
    event = {"type": "string", "enum": list(NATIVE.names)}
    json: dict[str, Any] = {WEBHOOK: [url], NATIVE.field: [{"type": "array", "items": event}]}
    form: dict[str, Any] = {WEBHOOK: [url], NATIVE.field: [{"type": "string"}]}
    for fields, empty in ((json, {"type": "null"}), (form, {"const": ""})):
        for name, description in told.items():
            schema = {"anyOf": [*fields[name], empty]} if offered else empty
            fields[name] = schema | {"description": description}
    return json, form


_QUERY = [*_parameters(), _IF_NONE_MATCH]
_RECALLED = {200: _KEPT, 304: _SAME, **vocabulary.problems(*_ACCEPT_REFUSED)}
_RECALLED_ONE = {200: _ONE, 304: _SAME, **vocabulary.problems(404, 406, 429, 500, 503, 504)}

GENERATE = vocabulary.operation(
    "generate",
    "Draw images",
    {200: _DRAWN, 202: _ACCEPTED, **_GENERATE_REFUSED},
    parameters=_ASKING_FOR_A_JOB,
    requestBody={
        "required": True,
        "content": {
            JSON: {"schema": vocabulary.ref(GenerateRequest), "examples": _BODY_EXAMPLES},
            **{form: {"schema": _FORM} for form in FORMS},
        },
    },
)
GENERATE_BY_QUERY = vocabulary.operation(
    "generateByQuery", "Draw images", _RECALLED, parameters=_QUERY
)
IMAGE = vocabulary.operation(
    "recallImage", "Draw an image again by its id", _RECALLED_ONE, parameters=[_IF_NONE_MATCH]
)
HUGGINGFACE = vocabulary.operation(
    "huggingFaceTextToImage",
    "Draw an image, for Hugging Face's clients",
    {200: _DRAWN, **vocabulary.problems(*_BODY_REFUSED)},
)
