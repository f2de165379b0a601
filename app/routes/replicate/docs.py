"""What the OpenAPI document says of predictions."""

from collections.abc import Mapping
from typing import Any

from app.http import vocabulary
from app.http.body import JSON
from app.http.idempotency import LONGEST
from app.http.idempotency import NAME as IDEMPOTENCY_KEY
from app.http.preferences import NAME as PREFER
from app.jobs.webhooks.asking import REPLICATE, WEBHOOK
from app.routes.replicate.asking import CANCEL_AFTER, LONGEST_WAIT
from app.routes.replicate.schemas import OWNER, PredictionInput
from app.routes.replicate.telling import Prediction

EXAMPLES: dict[str, dict[str, Any]] = {
    "digit": {"summary": "A digit", "value": {"input": {"prompt": "7", "seed": 1}}},
    "several": {
        "summary": "Four images as WebP",
        "value": {
            "input": {
                "prompt": "a 3",
                "num_inference_steps": 10,
                "num_outputs": 4,
                "output_format": "webp",
            }
        },
    },
}
EXAMPLES_BY_VERSION = {
    name: example | {"value": {"version": f"{OWNER}/digits", **example["value"]}}
    for name, example in EXAMPLES.items()
}
VERSION = {"type": "string", "description": "`{id}`, `{owner}/{name}` or `{owner}/{name}:{id}`."}
_HEADERS: list[dict[str, Any]] = [
    {
        "name": PREFER,
        "in": "header",
        "description": f"`wait` or `wait=N`: answer when it has ended, or after N seconds, 1 to "
        f"{LONGEST_WAIT}. `respond-async`, or neither: answer at once.",
        "schema": {"type": "string"},
        "example": "wait",
    },
    {
        "name": CANCEL_AFTER,
        "in": "header",
        "description": "How long after its creation it is given up: seconds, or as 30s, 5m or 1h. "
        "An hour at most.",
        "schema": {"type": "string", "pattern": r"^(1h|[1-5]?[0-9]m[1-9]s?|[1-9][0-9]{0,2}s?)$"},
    },
    {
        "name": IDEMPOTENCY_KEY,
        "in": "header",
        "description": "A text in quotes. The same request with the same key is the same "
        "prediction.",
        "schema": {
            "type": "string",
            "minLength": 3,
            "maxLength": LONGEST + 2,
            "pattern": '^"[a-zA-Z0-9-]+"$',
        },
        "example": '"8e03978e-40d5"',
    },
]
_HOOKS: dict[str, Any] = {
    WEBHOOK: {
        "description": "A URL that is told of the prediction, as it is then.",
        "anyOf": [{"type": "string"}, {"type": "null"}],
    },
    REPLICATE.field: {
        "description": "Of what it is told; of all if absent.",
        "anyOf": [
            {"type": "array", "items": {"type": "string", "enum": list(REPLICATE.names)}},
            {"type": "null"},
        ],
    },
}
_TOLD = vocabulary.headers("Location", "X-Seed", "Cache-Control", "Preference-Applied", "Warning")
_CREATED = {"description": "The prediction; see its status.", "headers": _TOLD}
_ACCEPTED = {
    "description": "The prediction, which has not ended yet, to a client that prefers "
    "`respond-async`.",
    "headers": _TOLD,
    "model": Prediction,
}
LOOKED_UP: dict[int | str, dict[str, Any]] = {
    200: {"description": "The prediction.", "headers": vocabulary.headers("Cache-Control")},
    **vocabulary.problems(404, 503),
}
LISTED: dict[int | str, dict[str, Any]] = {
    200: {"headers": vocabulary.headers("Cache-Control")},
    **vocabulary.problems(422, 503),
}


def creation(more: Mapping[str, Any], examples: Mapping[str, Any], *statuses: int) -> Any:
    """What creates predictions; `more` are fields of the body beside `input`."""
    body = {
        "type": "object",
        "required": [*more, "input"],
        "properties": {**more, "input": PredictionInput.model_json_schema(), **_HOOKS},
    }
    return {
        "status_code": 201,
        "response_model": Prediction,
        "responses": {
            201: _CREATED,
            202: _ACCEPTED,
            **vocabulary.problems(400, 409, 413, 415, 422, 429, 500, 503, *statuses),
        },
        "openapi_extra": {
            "parameters": _HEADERS,
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": body, "examples": examples}},
            },
        },
    }
