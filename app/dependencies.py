"""What routes ask for by type.

Coroutines, though they wait for nothing: FastAPI runs plain functions in a thread each.
"""

import functools
import ipaddress
from typing import Annotated

from fastapi import Depends, Request

from app.drawing import Studio
from app.engine.client import EngineClient
from app.engine.job import Asker, EngineUnavailable

_NETWORK_BITS = 64  # of an IPv6 address: what one customer is given at least (RFC 6177)


async def _engine(request: Request) -> EngineClient:
    engine = request.app.state.engine
    assert isinstance(engine, EngineClient)
    return engine


async def _studio(request: Request, engine: "EngineDep") -> Studio:
    if refusal := engine.refusal:
        raise EngineUnavailable(refusal)
    settings = request.app.state.settings
    client = client_of(request.client.host) if request.client else ""
    asker = Asker(client, request.scope.get("state", {}).get("request_id", ""))
    return Studio(engine, settings.marking, asker, settings.max_priority)


@functools.lru_cache(1024)
def client_of(host: str) -> str:
    """Who shares the engine as one: an IPv4 address, an IPv6 network; what is neither, as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _NETWORK_BITS), strict=False))


EngineDep = Annotated[EngineClient, Depends(_engine)]
StudioDep = Annotated[Studio, Depends(_studio)]  # raises where no requests are taken
