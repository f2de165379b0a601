"""Models are loaded and unloaded by whoever may change the server."""

from app.dependencies import AdminDep, EngineDep
from app.engine.client import EngineClient
from app.errors import UnknownModel
from app.http.routing import Router
from app.http.vocabulary import problems
from app.schemas.status import ModelState

router = Router(tags=["operations"])

_LOAD = problems(401, 403, 404, 503)
_UNLOAD = problems(401, 403, 404)


@router.post(
    "/models/{name}/load",
    operation_id="loadModel",
    summary="Load a model; answers when it is loaded",
    responses=_LOAD,
)
async def load(name: str, engine: EngineDep, _: AdminDep) -> ModelState:
    """Any model of `GET /models`. Another one may have to leave first (`DARKROOM_MAX_LOADED`)."""
    await _known(engine, name)
    await engine.open(name, at_once=True)
    return ModelState.of(engine, name)


@router.post(
    "/models/{name}/unload",
    operation_id="unloadModel",
    summary="Unload a model; answers when its memory is free",
    responses=_UNLOAD,
)
async def unload(name: str, engine: EngineDep, _: AdminDep) -> ModelState:
    """Its requests are finished first. The next request for it loads it again."""
    await _known(engine, name)
    await engine.fleet.unload(name)
    return ModelState.of(engine, name)


async def _known(engine: EngineClient, name: str) -> None:
    """Raise `UnknownModel` unless there is a model of this name."""
    if name not in engine.fleet.names:
        await engine.fleet.refresh()
    if name not in engine.fleet.names:
        names = ", ".join(engine.fleet.names)
        raise UnknownModel(f"unknown model {name[:40]!r}; there are: {names}")
