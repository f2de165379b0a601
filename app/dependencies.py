"""What routes ask for by type."""

from typing import Annotated

from fastapi import Depends, Request

from app.engine.client import EngineClient


def _engine(request: Request) -> EngineClient:
    engine = request.app.state.engine
    assert isinstance(engine, EngineClient)
    return engine


EngineDep = Annotated[EngineClient, Depends(_engine)]
