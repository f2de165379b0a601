"""Functions that answer with a `Response` are called at once, and lose nothing by it."""

import inspect
import json

import pytest
from fastapi import Depends, FastAPI, Request, Response
from fastapi.testclient import TestClient

from app.errors import InvalidRequest
from app.http.problems import enveloped, install
from app.http.routing import Route, Router
from app.main import create_app
from app.settings import Settings


def at_once(route: Route) -> bool:
    return inspect.signature(route.endpoint).return_annotation is Response


def test_who_is_called_at_once_asks_for_nothing_but_the_request_and_the_path() -> None:
    """A dependency, a query or a body of theirs would be left out without a word."""
    routes = [route for route in create_app(Settings()).routes if isinstance(route, Route)]
    quick = [route for route in routes if at_once(route)]
    paths = {"/generate", "/images/{name}", "/v1/images/generations", "/sdapi/v1/txt2img"}
    assert paths <= {route.path for route in quick}
    for route in quick:
        asked = set(inspect.signature(route.endpoint).parameters)
        assert asked == {"request", *route.param_convertors}, route.path
        assert all(p.annotation in (Request, str) for p in _parameters(route)), route.path
    assert len(quick) < len(routes), "models are still written by FastAPI"


def _parameters(route: Route) -> list[inspect.Parameter]:
    return list(inspect.signature(route.endpoint).parameters.values())


def _envelope(fault: object) -> Response:
    return Response("enveloped", 418)


@pytest.fixture
def client() -> TestClient:
    plain, wrapped = Router(), Router(prefix="/other", route_class=enveloped(_envelope))

    async def given() -> str:
        return "given"

    @plain.get("/read/{name}")
    async def read(request: Request, name: str) -> Response:
        return Response(f"{name} {request.query_params.get('q')}")

    @plain.post("/wrong")
    @wrapped.post("/wrong")
    async def wrong(request: Request) -> Response:
        raise InvalidRequest({"seed": "must be smaller"})

    @plain.post("/model/{name}")
    async def model(name: str, more: int, word: str = Depends(given)) -> dict[str, str]:
        return {"name": name, "more": str(more), "word": word}

    app = FastAPI()
    install(app)
    app.router.routes += plain.routes + wrapped.routes
    return TestClient(app)


def test_parts_of_the_path_and_the_query_come_through(client: TestClient) -> None:
    assert client.get("/read/a%20b?q=c").text == "a b c"
    assert client.head("/read/x").status_code == 200
    assert client.post("/read/x").status_code == 405


def test_errors_are_answered_as_the_route_would_have_it(client: TestClient) -> None:
    answer = client.post("/wrong")
    assert answer.status_code == 422
    assert answer.json()["errors"] == [{"detail": "must be smaller", "pointer": "#/seed"}]
    assert client.post("/other/wrong").text == "enveloped"


def test_others_are_served_by_fastapi(client: TestClient) -> None:
    answer = client.post("/model/m?more=3")
    assert json.loads(answer.text) == {"name": "m", "more": "3", "word": "given"}
    assert client.post("/model/m?more=x").status_code == 422
