"""The native routes in the OpenAPI document.

They read their bodies and choose their formats themselves, so FastAPI cannot read that off them.
"""

from typing import Any

from app.errors import Problem
from app.http import sse, vocabulary
from app.http.body import FORMS, JSON
from app.routes.native.answers import IMAGES, ZIP
from app.schemas.requests import GenerateRequest
from app.schemas.responses import (
    CompletedEvent,
    GenerateResponse,
    PreviewEvent,
    ProgressEvent,
    QueuedEvent,
)

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
_ACCEPT_REFUSED = (404, 406, 422, 429, 500, 503, 504)
_BODY_REFUSED = (400, 413, 415, *_ACCEPT_REFUSED)
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
_QUERY = [*_parameters(), _IF_NONE_MATCH]
_RECALLED = {200: _KEPT, 304: _SAME, **vocabulary.problems(*_ACCEPT_REFUSED)}
_RECALLED_ONE = {200: _ONE, 304: _SAME, **vocabulary.problems(404, 406, 429, 500, 503, 504)}

GENERATE = vocabulary.operation(
    "generate",
    "Draw images",
    {200: _DRAWN, **vocabulary.problems(*_BODY_REFUSED)},
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
