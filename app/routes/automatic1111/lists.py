"""What AUTOMATIC1111's clients ask for before they begin: settings and lists."""

from typing import Any

from fastapi import Request

from app.dependencies import EngineDep, StudioDep
from app.http import vocabulary
from app.http.body import JSON, read_body
from app.http.problems import enveloped
from app.http.routing import Router
from app.routes.automatic1111.errors import BODY, body_of, envelope, errors_of
from app.routes.automatic1111.schemas import (
    SCHEDULERS,
    ModelItem,
    Options,
    SamplerItem,
    SchedulerItem,
    title,
)
from models.sampling import SAMPLERS

router = Router(prefix="/sdapi/v1", tags=["automatic1111"], route_class=enveloped(envelope))

_NOTHING: dict[str, Any] = {
    "upscalers": [],
    "latent-upscale-modes": [],
    "sd-vae": [],
    "sd-modules": [],
    "loras": [],
    "hypernetworks": [],
    "face-restorers": [],
    "realesrgan-models": [],
    "prompt-styles": [],
    "script-info": [],
    "embeddings": {"loaded": {}, "skipped": {}},
    "scripts": {"txt2img": [], "img2img": []},
    "cmd-flags": {},
    "memory": {"ram": {}, "cuda": {}},
}


@router.get(
    "/options",
    operation_id="automatic1111Options",
    summary="Read the settings",
    responses=errors_of(500, 503) | vocabulary.WRONG,
)
async def options(studio: StudioDep) -> Options:
    """The default model, and the format of files."""
    info = next(iter(studio.models.values()))
    return Options(sd_model_checkpoint=title(info), sd_checkpoint_hash=info.digest)


@router.post(
    "/options",
    operation_id="automatic1111SetOptions",
    summary="Accept settings and ignore them",
    responses=errors_of(*BODY, 500),
    openapi_extra=body_of({"type": "object"}, samples_format="png"),
)
async def set_options(request: Request) -> dict[str, Any]:
    """Accepted so that clients go on; `override_settings` chooses a model."""
    await read_body(request)
    return {}


@router.post(
    "/refresh-checkpoints",
    operation_id="automatic1111RefreshCheckpoints",
    summary="Look for new models",
    responses=vocabulary.WRONG,
)
async def refresh_checkpoints(engine: EngineDep) -> dict[str, Any]:
    """In the folders that the settings name."""
    await engine.fleet.refresh()
    return {}


@router.get(
    "/sd-models",
    operation_id="automatic1111SdModels",
    summary="List the models",
    responses=errors_of(500, 503) | vocabulary.WRONG,
)
async def sd_models(studio: StudioDep) -> list[ModelItem]:
    """Every model, the default one first; without a hash those that were never loaded."""
    names = await studio.names()
    return [
        ModelItem(
            title=title(info),
            model_name=info.name,
            hash=info.hash,
            sha256=info.digest,
            filename=info.name,
        )
        for info in studio.models.values()
    ] + [
        ModelItem(title=name, model_name=name, hash=None, sha256=None, filename=name)
        for name in names
        if name not in studio.models
    ]


@router.get(
    "/samplers",
    operation_id="automatic1111Samplers",
    summary="List the samplers",
    responses=vocabulary.WRONG,
)
async def samplers() -> list[SamplerItem]:
    """Those that a request may name."""
    return [
        SamplerItem(name=sampler.title, aliases=[sampler.name], options={})
        for sampler in SAMPLERS.values()
    ]


@router.get(
    "/schedulers",
    operation_id="automatic1111Schedulers",
    summary="List the spacings of steps",
    responses=vocabulary.WRONG,
)
async def schedulers() -> list[SchedulerItem]:
    """Those that a request may name; `automatic` leaves it to the model."""
    labels = ["Automatic", *SCHEDULERS.values()]
    return [SchedulerItem(name=label.lower(), label=label) for label in labels]


def _add_empty(path: str, content: Any) -> None:
    """A route that answers with an empty list."""
    words = "".join(word.capitalize() for word in path.split("-"))

    async def nothing() -> Any:
        return content

    router.add_api_route(
        f"/{path}",
        nothing,
        operation_id=f"automatic1111{words}",
        summary="An empty list",
        responses={200: {"content": {JSON: {"example": content}}}, **vocabulary.WRONG},
    )


for _path, _content in _NOTHING.items():
    _add_empty(_path, _content)
