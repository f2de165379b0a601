"""What routes ask for by type.

They are coroutines, though they wait for nothing: FastAPI runs each plain function in a thread.
"""

from typing import Annotated

from fastapi import Depends, Request

from app.crowd import client_of
from app.drawing import Studio
from app.engine.client import EngineClient
from app.engine.job import Asker


async def _engine(request: Request) -> EngineClient:
    engine = request.app.state.engine
    assert isinstance(engine, EngineClient)
    return engine


async def _early_studio(request: Request, engine: "EngineDep") -> Studio:
    settings = request.app.state.settings
    client = client_of(request.client.host) if request.client else ""
    asker = Asker(client, request.scope.get("state", {}).get("request_id", ""))
    return Studio(engine, settings.marking, asker, settings.max_priority)


async def _studio(studio: "EarlyStudioDep") -> Studio:
    return await studio.opened()


EngineDep = Annotated[EngineClient, Depends(_engine)]
EarlyStudioDep = Annotated[Studio, Depends(_early_studio)]  # to be `opened` by the route
StudioDep = Annotated[Studio, Depends(_studio)]  # waits while models load
