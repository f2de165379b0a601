"""What routes ask for.

They are coroutines, though they wait for nothing: FastAPI runs each plain function in a thread.
"""

from typing import Annotated

from fastapi import Depends, Request

from app.access.admission import Admission, client_in
from app.engine.client import EngineClient
from app.engine.job import Asker
from app.generation import Studio
from app.jobs.service import JobService


async def _engine(request: Request) -> EngineClient:
    engine = request.app.state.engine
    assert isinstance(engine, EngineClient)
    return engine


def early_studio(request: Request) -> Studio:
    """For this request; to be `opened` by the route."""
    state, scope = request.app.state, request.scope
    admission: Admission = state.admission
    asker = Asker(client_in(scope), scope.get("state", {}).get("request_id", ""))
    return Studio(
        state.engine,
        state.settings.marking,
        asker,
        admission.max_priority(scope),
        permit=admission.permit(scope),
    )


async def studio_of(request: Request) -> Studio:
    """For this request; waits while models load."""
    return await early_studio(request).opened()


async def _admin(request: Request) -> None:
    admission: Admission = request.app.state.admission
    admission.check_admin(request.scope)


async def jobs_of(request: Request) -> JobService:
    """The jobs of this server."""
    jobs = request.app.state.jobs
    assert isinstance(jobs, JobService)
    return jobs


EngineDep = Annotated[EngineClient, Depends(_engine)]
StudioDep = Annotated[Studio, Depends(studio_of)]
# 401 or 403 for those who may not change the server.
AdminDep = Annotated[None, Depends(_admin)]
JobsDep = Annotated[JobService, Depends(jobs_of)]
