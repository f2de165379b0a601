"""What routes ask for by type.

Coroutines, though they wait for nothing: FastAPI runs plain functions in a thread each.
"""

from typing import Annotated

from fastapi import Depends, Request

from app.drawing import Studio
from app.engine.client import EngineClient
from app.engine.job import Asker, EngineUnavailable
from app.turns import client_of


async def _engine(request: Request) -> EngineClient:
    engine = request.app.state.engine
    assert isinstance(engine, EngineClient)
    return engine


async def _studio(request: Request, engine: "EngineDep") -> Studio:
    if not engine.accepting:
        raise EngineUnavailable("the models are not loaded, or the engine stopped")
    settings = request.app.state.settings
    client = client_of(request.client.host) if request.client else ""
    asker = Asker(client, request.scope.get("state", {}).get("request_id", ""))
    return Studio(engine, settings.marking, asker, settings.max_priority)


EngineDep = Annotated[EngineClient, Depends(_engine)]
StudioDep = Annotated[Studio, Depends(_studio)]  # raises where no requests are taken
