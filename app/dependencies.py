"""What routes ask for by type.

Coroutines, though they wait for nothing: FastAPI runs plain functions in a thread each.
"""

from typing import Annotated

from fastapi import Depends, Request

from app.engine.client import EngineClient
from app.engine.job import EngineUnavailable


async def _engine(request: Request) -> EngineClient:
    engine = request.app.state.engine
    assert isinstance(engine, EngineClient)
    return engine


async def _accepting(engine: "EngineDep") -> EngineClient:
    if not engine.accepting:
        raise EngineUnavailable("the models are not loaded, or the engine stopped")
    return engine


EngineDep = Annotated[EngineClient, Depends(_engine)]
AcceptingEngineDep = Annotated[EngineClient, Depends(_accepting)]
