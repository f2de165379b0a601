"""Replicate's models: each has one version, the checkpoint that is loaded.

https://replicate.com/docs/reference/http#models.get
"""

from typing import Any
from urllib.parse import quote

from fastapi import Request

from app.dependencies import StudioDep
from app.errors import UnknownModel, model_of
from app.http import vocabulary
from app.http.routing import Router
from app.routes.replicate.schemas import (
    PredictionModel,
    PredictionModelVersion,
    PredictionModelVersions,
)

router = Router(tags=["replicate"])
_TOLD = {"description": "The description.", "headers": vocabulary.headers()}
_FOUND: dict[int | str, dict[str, Any]] = {200: _TOLD, **vocabulary.problems(404, 500, 503)}


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
