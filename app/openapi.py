"""The OpenAPI document, put together: FastAPI's, with what it cannot know.

Models that only descriptions name, and the classes of the models that are loaded.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema
from starlette.routing import compile_path

from app.access.admission import Admission
from app.access.guard import is_open
from app.engine.client import EngineClient
from app.engine.job import MAX_SEED, SamplingParams
from app.engine.model_info import ModelInfo
from app.errors import Problem
from app.files.ids import image_id
from app.http.body import FORMS, JSON
from app.http.vocabulary import HEADERS, TEMPLATE, problems
from app.jobs.snapshot import SnapshotEvent
from app.routes.native.docs import webhook_fields
from app.schemas.requests import ASKING, GenerateRequest
from app.schemas.responses import (
    CompletedEvent,
    GenerateResponse,
    PreviewEvent,
    ProgressEvent,
    QueuedEvent,
)

_NAMED = (
    CompletedEvent,
    GenerateRequest,
    GenerateResponse,
    PreviewEvent,
    Problem,
    ProgressEvent,
    QueuedEvent,
    SnapshotEvent,
)
_MODEL_OF = {  # the part of a path that names a model
    "/models/{name}": "name",
    "/models/{name}/classes.png": "name",
    "/models/{name}/load": "name",
    "/models/{name}/unload": "name",
    "/v1/models/{model}": "model",
    "/v1/models/{owner}/{name}": "name",
    "/v1/models/{owner}/{name}/predictions": "name",
    "/v1/models/{owner}/{name}/versions": "name",
    "/v1/models/{owner}/{name}/versions/{version}": "name",
    "/v2/models/{name}": "name",
    "/v2/models/{name}/ready": "name",
}


def install(app: FastAPI, engine: EngineClient) -> None:
    """Let the application complete its document, with the models that are loaded by then."""
    made: dict[tuple[Sequence[str], tuple[ModelInfo, ...]], dict[str, Any]] = {}

    def complete() -> dict[str, Any]:
        known = engine.names, tuple(engine.models.values())
        if known not in made:
            made.clear()
            made[known] = _document(app, *known)
            _bound(made[known], app.state.admission)
            _offer_webhooks(made[known], offered=app.state.webhooks.asking.signed)
            if app.state.admission.keyring.required:
                _secure(made[known])
        return made[known]

    app.openapi = complete  # type: ignore[method-assign]


def allowed_methods(app: FastAPI, path: str) -> set[str]:
    """The methods that a path has, by the document; none where it has no such path."""
    return {
        method.upper()
        for template, operations in app.openapi()["paths"].items()
        if compile_path(template)[0].fullmatch(path)
        for method in operations
    }


def _document(app: FastAPI, names: Sequence[str], models: Sequence[ModelInfo]) -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Duplicate Operation ID")  # of GET and HEAD, see below
        described = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=app.openapi_tags,
            servers=[{"url": "/"}],
            license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        )
    document: dict[str, Any] = _whole(described)
    named = [(model, "validation") for model in _NAMED]
    schemas = models_json_schema(named, by_alias=True, ref_template=TEMPLATE)[1]["$defs"]  # type: ignore[arg-type]
    components = document["components"]
    components["schemas"] |= schemas
    for unused in ("HTTPValidationError", "ValidationError"):  # FastAPI's own shape of a 422
        components["schemas"].pop(unused, None)
    components["headers"] = HEADERS
    document["security"] = []
    for operations in document["paths"].values():
        for operation in operations.values():
            if "HTTPValidationError" in str(operation["responses"].get("422")):
                del operation["responses"]["422"]  # FastAPI's guess; ours are said where they are
            if "4XX" not in operation["responses"]:
                operation["responses"]["403"] = problems(403)[403]  # of http/guard.py
        if head := operations.get("head"):
            head["operationId"] += "Head"
            head["summary"] = "The headers of the answer to GET, without its body"
            for response in head["responses"].values():
                response.pop("content", None)
                response.pop("links", None)
    if models:
        _name_choices(document, names, models)
        for method in ("get", "head"):
            name = document["paths"]["/images/{name}"][method]["parameters"][0]
            name["example"] = f"{image_id(_example(models[0]), 0, models[0])}.png"
    return document


def _whole(part: Any) -> Any:
    """A copy whose whole numbers are integers: FastAPI makes every bound a float.

    As a float, the largest seed is 2^63, which is one too many.
    """
    if isinstance(part, dict):
        return {key: _whole(value) for key, value in part.items()}
    if isinstance(part, list):
        return [_whole(value) for value in part]
    if isinstance(part, float) and part.is_integer():
        return min(int(part), MAX_SEED)
    return part


def _example(info: ModelInfo) -> SamplingParams:
    subject = {"prompt": "a photo of a cat"} if info.prompts else {}
    wanted = {"class": 0 if info.classes.names else None, "seed": 1, **subject}
    return GenerateRequest.parse(wanted).to_params({info.name: info})


def _name_choices(
    document: dict[str, Any], names: Sequence[str], models: Sequence[ModelInfo]
) -> None:
    """Say of a request's fields what they may be with the models that there are."""
    fields = document["components"]["schemas"]["GenerateRequest"]["properties"]
    most = max(len(info.classes.names) for info in models)
    classes = {name: None for info in models for name in info.classes.names}
    labels = list(classes | {str(k): None for k in range(most)})
    allowed: list[dict[str, Any]] = []
    if most:
        allowed.append({"type": "string", "enum": labels})
        allowed.append({"type": "integer", "minimum": 0, "maximum": most - 1})
    if any(info.classes.optional for info in models):
        allowed.append({"type": "null"})
    fields["class"]["anyOf"] = allowed
    fields["model"]["anyOf"][0]["enum"] = list(names)
    sides = {side: _sides(models, side) for side in ("width", "height")}
    for side, schema in sides.items():
        fields[side]["anyOf"][0] = schema
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] == _MODEL_OF.get(path):
                    parameter["schema"]["enum"] = list(names)
    for schemas in _as_text(document):
        schemas["model"]["enum"] = [*names, ""]
        schemas["class"]["enum"] = [*labels, ""]
        for side, schema in sides.items():
            schemas[side]["anyOf"][0] = schema
    _name_subjects(document, models)


def _name_subjects(document: dict[str, Any], models: Sequence[ModelInfo]) -> None:
    """Leave of the fields that say what to draw those that some model takes."""
    request = document["components"]["schemas"]["GenerateRequest"]
    skips = [info.prompts.clip_skip for info in models if info.prompts]
    untaken = set(ASKING).difference(*(info.takes.fields for info in models))
    nothing: dict[str, Any] = {"type": "null"}
    for schemas in (request["properties"], *_as_text(document)):
        if skips:
            schemas["clip_skip"]["anyOf"][0]["maximum"] = max(skips)
        for name in untaken:
            for key in schemas[name].keys() - {"title", "description"}:
                del schemas[name][key]
            schemas[name] |= nothing
        nothing = {"const": ""}  # in a query or a form
    foreign = set(ASKING) - {*models[0].takes.fields}
    body = document["paths"]["/generate"]["post"]["requestBody"]["content"][JSON]
    body["examples"] = {
        name: example
        for name, example in body["examples"].items()
        if not foreign & example["value"].keys()
    }
    request["examples"] = [each for each in request["examples"] if not foreign & each.keys()]


def _sides(models: Sequence[ModelInfo], side: str) -> dict[str, Any]:
    """What widths or heights images may have: those of one size each, or a range of all."""
    own: list[int] = [getattr(info.sizes, side) for info in models]
    if all(info.sizes.fixed for info in models):
        return {"type": "integer", "enum": sorted(set(own))}
    least = min([info.sizes.least for info in models if not info.sizes.fixed] + own)
    return {"type": "integer", "minimum": least, "maximum": max(info.sizes.most for info in models)}


def _bound(document: dict[str, Any], admission: Admission) -> None:
    """Say what a request may ask for here."""
    limits = admission.limits
    bounds = {
        "priority": admission.highest_priority,
        "steps": limits.steps,
        "n": limits.images,
    }
    for name, most in bounds.items():
        field = document["components"]["schemas"]["GenerateRequest"]["properties"][name]
        for schema in (field, *(each[name]["anyOf"][0] for each in _as_text(document))):
            schema["maximum"] = most
            if "default" in schema:
                schema["default"] = min(schema["default"], most)


def _offer_webhooks(document: dict[str, Any], *, offered: bool) -> None:
    """Say what a body may say of a webhook here."""
    as_json, as_form = webhook_fields(offered=offered)
    document["components"]["schemas"]["GenerateRequest"]["properties"] |= as_json
    for form in FORMS:
        generate = document["paths"]["/generate"]["post"]
        generate["requestBody"]["content"][form]["schema"]["properties"] |= as_form


def _secure(document: dict[str, Any]) -> None:
    """Say which operations need a key, and how it is sent."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "basic": {"type": "http", "scheme": "basic", "description": "The key is the password."},
    }
    document["security"] = [{name: []} for name in document["components"]["securitySchemes"]]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if is_open(path):
                operation["security"] = []
            else:
                responses = operation["responses"]
                like = responses.get("500", {}).get("content")  # in the envelope of its dialect
                for status, response in problems(401, 429).items():
                    content = {"content": like} if like else {}
                    responses.setdefault(str(status), response | content)


def _as_text(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The fields of a request, by name, wherever they are described as text: queries and forms."""
    generate = document["paths"]["/generate"]
    for method in ("get", "head"):
        yield {field["name"]: field["schema"] for field in generate[method]["parameters"]}
    for form in FORMS:
        yield generate["post"]["requestBody"]["content"][form]["schema"]["properties"]
