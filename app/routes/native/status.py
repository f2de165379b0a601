"""The models, the state of the engine, and the two probes."""

from fastapi import Request, Response

from app.access.admission import Admission
from app.dependencies import EngineDep
from app.engine.process import resident_bytes
from app.http.routing import Router
from app.http.vocabulary import WRONG
from app.schemas.status import (
    EngineOut,
    FailedModel,
    Health,
    LaneOut,
    ModelList,
    ModelOut,
    WorkerOut,
)

router = Router(tags=["operations"])


@router.get(
    "/models",
    operation_id="listModels",
    summary="List the models with classes, limits and defaults",
    responses=WRONG,
)
async def models(engine: EngineDep, request: Request) -> ModelList:
    """Every model, loaded or not; requests that name none get the one marked default."""
    await engine.fleet.refresh()
    admission: Admission = request.app.state.admission
    limits, streams = admission.limits, admission.streams.alone
    return ModelList(
        models=[ModelOut.named(engine, name, limits, streams) for name in engine.names],
        failed=[FailedModel(name=name, reason=reason) for name, reason in engine.failed.items()],
    )


@router.get(
    "/engine",
    operation_id="readEngine",
    summary="Describe the state of the engine",
    responses=WRONG,
)
async def state(engine: EngineDep) -> EngineOut:
    """Counts since the server started."""
    stats, workers = engine.stats, engine.fleet.workers
    return EngineOut(
        ready=engine.ready,
        worker_pid=next((worker.process.pid for worker in workers.values()), None),
        workers=[
            WorkerOut(
                model=name,
                pid=worker.process.pid,
                restarts=engine.fleet.crew.restarts_of(name),
                memory_bytes=resident_bytes(worker.process.pid),
            )
            for name, worker in workers.items()
        ],
        restarts=engine.fleet.restarts,
        jobs=engine.jobs,
        **vars(stats) | {"lanes": [LaneOut.of(*lane) for lane in stats.lanes.items()]},
    )


@router.get(
    "/livez",
    operation_id="readLiveness",
    summary="Check that the server answers",
    responses=WRONG,
)
async def livez() -> Health:
    """Always 200: a server that cannot say this should be restarted."""
    return Health(status="alive")


@router.get("/health", operation_id="readHealth", summary="The same as /livez", responses=WRONG)
async def health() -> Health:
    """The name that most probes ask for; `/readyz` says whether requests are served."""
    return Health(status="alive")


@router.get(
    "/readyz",
    operation_id="readReadiness",
    summary="Check that requests are served",
    responses={503: {"model": Health, "description": "Not ready."}, **WRONG},
)
async def readyz(engine: EngineDep, response: Response) -> Health:
    """200 once the models are loaded, 503 while they are not."""
    if engine.ready:
        return Health(status="ready")
    response.status_code = 503
    return Health(status="not ready")
