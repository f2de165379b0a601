"""The Open Inference Protocol's health and metadata; tensors are neither taken nor given.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
"""

from collections.abc import Mapping
from typing import Any, Literal, Self

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from app.dependencies import EngineDep, StudioDep
from app.engine.client import EngineClient
from app.engine.model_info import ModelInfo
from app.errors import Fault, UnknownModel, model_of
from app.http import vocabulary
from app.http.problems import enveloped
from app.http.routing import Router


class InferenceError(BaseModel):
    """How this protocol tells errors."""

    error: str


class ServerMetadata(BaseModel):
    """What answers."""

    name: Literal["darkroom"] = "darkroom"
    version: str
    extensions: list[str] = Field([], description="There are none.")


class ServerLive(BaseModel):
    """Whether the server answers."""

    live: Literal[True] = True


class ServerReady(BaseModel):
    """Whether requests are taken."""

    ready: bool


class ModelReady(BaseModel):
    """Whether requests to a model are taken."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor; -1 is a size that varies."""

    name: str
    datatype: Literal["BYTES", "INT64", "FP64", "UINT8"]
    shape: list[int]


_ASKING = {
    "class": TensorMetadata(name="class", datatype="BYTES", shape=[1]),
    "prompt": TensorMetadata(name="prompt", datatype="BYTES", shape=[1]),
    "negative_prompt": TensorMetadata(name="negative_prompt", datatype="BYTES", shape=[1]),
    "clip_skip": TensorMetadata(name="clip_skip", datatype="INT64", shape=[1]),
}
_INPUTS = [
    TensorMetadata(name="steps", datatype="INT64", shape=[1]),
    TensorMetadata(name="guidance_scale", datatype="FP64", shape=[1]),
    TensorMetadata(name="seed", datatype="INT64", shape=[1]),
    TensorMetadata(name="n", datatype="INT64", shape=[1]),
]


class ModelMetadata(BaseModel):
    """A loaded model."""

    name: str = Field(examples=["digits"])
    versions: list[str] = Field(description="One version: the first ten digits of the SHA-256.")
    platform: Literal["darkroom"] = "darkroom"
    inputs: list[TensorMetadata] = Field(description="Fields of a request; send them to /generate.")
    outputs: list[TensorMetadata] = Field(
        description="Pixels by image, row, column, channel; /generate answers with files."
    )

    @classmethod
    def of(cls, info: ModelInfo) -> Self:
        """Describe a loaded model."""
        shape = [-1, info.sizes.height, info.sizes.width, -1]
        pixels = TensorMetadata(name="images", datatype="UINT8", shape=shape)
        inputs = [*(_ASKING[name] for name in info.takes.fields), *_INPUTS]
        return cls(name=info.name, versions=[info.hash], inputs=inputs, outputs=[pixels])


def _envelope(fault: Fault) -> Response:
    content = InferenceError(error=fault.detail).model_dump()
    return JSONResponse(content, fault.status, dict(fault.headers))


def _unready(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    return {503: {"model": model, "description": "Not ready.", "headers": vocabulary.headers()}}


def _responses(told: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """A route's: `told` says what 200 is, the others are errors."""
    answered = {"description": told, "headers": vocabulary.headers()}
    return {200: answered, **vocabulary.envelopes(InferenceError, *statuses)}


router = Router(prefix="/v2", tags=["openinference"], route_class=enveloped(_envelope))


@router.get(
    "",
    operation_id="oipServerMetadata",
    summary="Describe the server",
    responses=_responses("The description.", 500) | vocabulary.WRONG,
)
async def server_metadata(request: Request) -> ServerMetadata:
    """Name and version."""
    return ServerMetadata(version=request.app.version)


@router.get(
    "/health/live",
    operation_id="oipServerLive",
    summary="Check that the server answers",
    responses=_responses("The server answers.", 500) | vocabulary.WRONG,
)
async def server_live() -> ServerLive:
    """Always 200: a server that cannot say this should be restarted."""
    return ServerLive()


@router.get(
    "/health/ready",
    operation_id="oipServerReady",
    summary="Check that requests are served",
    responses=_responses("Requests are served.", 500) | _unready(ServerReady) | vocabulary.WRONG,
)
async def server_ready(engine: EngineDep, response: Response) -> ServerReady:
    """200 once the models are loaded, 503 while they are not."""
    response.status_code = 200 if engine.ready else 503
    return ServerReady(ready=engine.ready)


@router.get(
    "/models/{name}",
    operation_id="oipModelMetadata",
    summary="Describe a model's inputs and outputs",
    responses=_responses("The description.", 404, 500, 503),
)
async def model_metadata(name: str, studio: StudioDep) -> ModelMetadata:
    """The model's version, and its tensors as they would be, were they sent."""
    return ModelMetadata.of(_find((await studio.opened(model=name)).models, name))


@router.get(
    "/models/{name}/versions/{version}",
    operation_id="oipModelVersionMetadata",
    summary="Describe the inputs and outputs of a version",
    responses=_responses("The description.", 404, 500, 503),
)
async def version_metadata(name: str, version: str, studio: StudioDep) -> ModelMetadata:
    """As without a version, of which there is one."""
    return ModelMetadata.of(_find((await studio.opened(model=name)).models, name, version))


@router.get(
    "/models/{name}/ready",
    operation_id="oipModelReady",
    summary="Check that requests to a model are served",
    responses=_responses("Requests are served.", 404, 500) | _unready(ModelReady),
)
async def model_ready(name: str, engine: EngineDep, response: Response) -> ModelReady:
    """200 or 503; before models are loaded it is 503 whatever the name, and 404 is for later."""
    return _ready(engine, response, name)


@router.get(
    "/models/{name}/versions/{version}/ready",
    operation_id="oipModelVersionReady",
    summary="Check that requests to a version are served",
    responses=_responses("Requests are served.", 404, 500) | _unready(ModelReady),
)
async def version_ready(
    name: str, version: str, engine: EngineDep, response: Response
) -> ModelReady:
    """As without a version, of which there is one."""
    return _ready(engine, response, name, version)


def _find(models: Mapping[str, ModelInfo], name: str, version: str | None = None) -> ModelInfo:
    info = model_of(name, models)
    if version is not None and version != info.hash:
        raise UnknownModel(f"unknown version {version[:40]!r}; loaded: {info.hash}")
    return info


def _ready(
    engine: EngineClient, response: Response, name: str, version: str | None = None
) -> ModelReady:
    if engine.models and (name in engine.models or name not in engine.fleet.names):
        _find(engine.models, name, version)
    known = name in (engine.names if version is None else engine.models)
    ready = engine.ready and known  # one that is not loaded is, for a request
    response.status_code = 200 if ready else 503
    return ModelReady(name=name, ready=ready)
