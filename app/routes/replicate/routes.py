"""Replicate's predictions: what is created has succeeded when it is answered, and is not kept.

https://replicate.com/docs/reference/http#models.predictions.create
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from fastapi import Request, Response

from app.dependencies import StudioDep, early_studio, studio_of
from app.errors import InvalidRequest, UnknownModel, model_of
from app.generation import Studio
from app.http import vocabulary
from app.http.body import JSON, read_body
from app.http.routing import Router
from app.http.warnings import warn
from app.routes.replicate.schemas import (
    OWNER,
    Prediction,
    PredictionInput,
    PredictionModel,
    PredictionModelVersion,
    PredictionModelVersions,
    name_in,
    named,
)
from app.schemas.prompts import allowed_prompt, asked_of

router = Router(tags=["replicate"])
_EXAMPLES: dict[str, dict[str, Any]] = {
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
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "Ignored: every request waits for its result.",
    "schema": {"type": "string"},
    "example": "wait",
}
_CREATED = {
    "description": "The prediction, which has succeeded.",
    "headers": vocabulary.headers("X-Seed", "Cache-Control", "Warning"),
}
_TOLD = {"description": "The description.", "headers": vocabulary.headers()}
_FOUND: dict[int | str, dict[str, Any]] = {200: _TOLD, **vocabulary.problems(404, 500, 503)}


def _creation(more: Mapping[str, Any], examples: Mapping[str, Any], *statuses: int) -> Any:
    """What creates predictions, for the document; `more` are fields of the body beside `input`."""
    body = {
        "type": "object",
        "required": [*more, "input"],
        "properties": {**more, "input": PredictionInput.model_json_schema()},
    }
    return {
        "status_code": 201,
        "response_model": Prediction,
        "responses": {
            201: _CREATED,
            **vocabulary.problems(400, 413, 415, 422, 429, 500, 503, 504, *statuses),
        },
        "openapi_extra": {
            "parameters": [_PREFER],
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": body, "examples": examples}},
            },
        },
    }


_VERSION = {"type": "string", "description": "`{id}`, `{owner}/{name}` or `{owner}/{name}:{id}`."}
_BY_VERSION = {
    name: example | {"value": {"version": f"{OWNER}/digits", **example["value"]}}
    for name, example in _EXAMPLES.items()
}


@router.post(
    "/v1/models/{owner}/{name}/predictions",
    operation_id="replicateCreatePrediction",
    summary="Draw images, for Replicate's clients",
    **_creation({}, _EXAMPLES, 404),
)
async def create_prediction(request: Request, owner: str, name: str) -> Response:
    """Draw `num_outputs` images of a prompt, or of the class it names. Any owner will do."""
    studio = await early_studio(request).opened(model=name)
    created_at = datetime.now(UTC)
    values, _ = await read_body(request)
    return await _create(studio, owner, name, values.get("input"), created_at)


@router.post(
    "/v1/predictions",
    operation_id="replicateCreateVersionPrediction",
    summary="Draw images with a version of a model, for Replicate's clients",
    **_creation({"version": _VERSION}, _BY_VERSION),
)
async def create_version_prediction(request: Request) -> Response:
    """As by a model's name; a model has one version, whose id is the checkpoint's SHA-256."""
    studio = await studio_of(request)
    created_at = datetime.now(UTC)
    values, _ = await read_body(request)
    studio = await studio.opened(model=name_in(values.get("version")))
    owner, info = named(values.get("version"), studio.models)
    return await _create(studio, owner, info.name, values.get("input"), created_at)


@router.get(
    "/v1/models/{owner}/{name}",
    operation_id="replicateGetModel",
    summary="Describe a model, for Replicate's clients",
    responses=_FOUND,
)
async def get_model(request: Request, owner: str, name: str, studio: StudioDep) -> PredictionModel:
    """A model and its one version. Any owner will do."""
    info = model_of(name, (await studio.opened(model=name)).models)
    url = f"{request.base_url}v1/models/{quote(owner, safe='')}/{quote(name, safe='')}"
    return PredictionModel.of(url, owner, info)


@router.get(
    "/v1/models/{owner}/{name}/versions",
    operation_id="replicateListVersions",
    summary="List the versions of a model, for Replicate's clients",
    responses=_FOUND,
)
async def list_versions(
    owner: str,  # noqa: ARG001  (any will do)
    name: str,
    studio: StudioDep,
) -> PredictionModelVersions:
    """One: the checkpoint that is loaded."""
    info = model_of(name, (await studio.opened(model=name)).models)
    version = PredictionModelVersion.of(info)
    return PredictionModelVersions(results=[version])


@router.get(
    "/v1/models/{owner}/{name}/versions/{version}",
    operation_id="replicateGetVersion",
    summary="Describe a version of a model, for Replicate's clients",
    responses=_FOUND,
)
async def get_version(
    owner: str,  # noqa: ARG001  (any will do)
    name: str,
    version: str,
    studio: StudioDep,
) -> PredictionModelVersion:
    """The checkpoint that is loaded, by its SHA-256 or the first ten digits of that."""
    info = model_of(name, (await studio.opened(model=name)).models)
    if version not in (info.digest, info.hash):
        raise UnknownModel(f"unknown version {version[:80]!r} of {name!r}; loaded: {info.digest}")
    return PredictionModelVersion.of(info)


async def _create(
    studio: Studio, owner: str, name: str, given: object, created_at: datetime
) -> Response:
    """A prediction of what `input` asks of the model of a name."""
    if not isinstance(given, dict):
        raise InvalidRequest({"input": "must be an object"})
    told = allowed_prompt(asked_of(name, studio.models))
    wanted = PredictionInput.parse(given, within="input", prompt=told)
    generation = studio.generation(wanted.to_request(name, studio))
    result = await generation.draw()
    files = await generation.files(result, wanted.kind, wanted.quality)
    info, model = generation.info, f"{owner}/{name}"
    cautions = generation.cautions(result)
    logs = "\n".join(cautions)
    prediction = Prediction.of(model, info, given, wanted.kind, files, result, created_at, logs)
    headers = {"X-Seed": str(generation.params.seed), "Cache-Control": "no-store"}
    warn(headers, cautions)
    return Response(prediction.model_dump_json(), 201, headers, JSON)
