"""What a trusted proxy says of client, scheme, host and path, and what others say."""

from typing import Any

import pytest
from fastapi.testclient import TestClient
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from app.http.proxies import BehindProxy, route_path
from app.main import create_app
from app.settings import Settings

PROXY, STRANGER = "10.0.0.1", "192.0.2.9"


def seen(
    headers: dict[str, str], peer: str = PROXY, path: str = "/generate", root: str = ""
) -> dict[str, Any]:
    """What the service knows of a request."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        response: Response = JSONResponse(
            {
                "client": request.client.host if request.client else None,
                "base": str(request.base_url),
                "route": route_path(scope),
            }
        )
        await response(scope, receive, send)

    behind = BehindProxy(application, ["10.0.0.0/8"], root)
    client = TestClient(behind, base_url="http://inside:8000", client=(peer, 1))
    told: dict[str, Any] = client.get(path, headers=headers).json()
    return told


PLAIN = {"client": PROXY, "base": "http://inside:8000/", "route": "/generate"}


@pytest.mark.parametrize(
    ("headers", "changed"),
    [
        ({}, {}),
        ({"x-forwarded-for": "192.0.2.7"}, {"client": "192.0.2.7"}),
        ({"x-forwarded-for": "192.0.2.7, 10.1.1.1"}, {"client": "192.0.2.7"}),
        ({"x-forwarded-proto": "https"}, {"base": "https://inside:8000/"}),
        ({"x-forwarded-proto": "HTTPS"}, {"base": "https://inside:8000/"}),
        ({"x-forwarded-proto": "http, https"}, {"base": "https://inside:8000/"}),
        ({"x-forwarded-host": "pics.example"}, {"base": "http://pics.example/"}),
        ({"x-forwarded-host": "a.example, b.example:81"}, {"base": "http://b.example:81/"}),
        ({"x-forwarded-host": "no host!"}, {}),
        ({"x-forwarded-prefix": "/darkroom"}, {"base": "http://inside:8000/darkroom/"}),
        ({"x-forwarded-prefix": "/a/b/"}, {"base": "http://inside:8000/a/b/"}),
        ({"x-forwarded-prefix": "//evil.example"}, {}),
        ({"x-forwarded-prefix": "/a\\b"}, {}),
        ({"x-forwarded-prefix": "/a/../.."}, {}),
        (
            {"x-forwarded-prefix": "/.well-known/..a"},
            {"base": "http://inside:8000/.well-known/..a/"},
        ),
        (
            {"forwarded": "proto=HTTPS", "x-forwarded-prefix": "/darkroom"},
            {"base": "https://inside:8000/darkroom/"},
        ),
        (
            {"forwarded": 'for="[2001:db8::1]:4711";proto=https;host=pics.example'},
            {"client": "2001:db8::1", "base": "https://pics.example/"},
        ),
        ({"forwarded": "For=192.0.2.7, for=10.2.2.2"}, {"client": "192.0.2.7"}),
        (
            {"forwarded": "for=192.0.2.66", "x-forwarded-for": "192.0.2.7"},
            {"client": "192.0.2.7"},
        ),
        ({"forwarded": "for=unknown;proto=gopher;;=,"}, {"client": "unknown"}),
    ],
)
def test_a_trusted_proxy_is_believed_and_nobody_else(
    headers: dict[str, str], changed: dict[str, str]
) -> None:
    assert seen(headers) == PLAIN | changed
    assert seen(headers, STRANGER) == PLAIN | {"client": STRANGER}


@pytest.mark.parametrize("path", ["/generate", "/darkroom/generate"], ids=["stripped", "kept"])
@pytest.mark.parametrize(
    ("headers", "root"), [({}, "/darkroom"), ({"x-forwarded-prefix": "/darkroom"}, "/other")]
)
def test_a_path_is_found_whether_the_proxy_strips_its_prefix(
    path: str, headers: dict[str, str], root: str
) -> None:
    assert seen(headers, path=path, root=root) == PLAIN | {"base": "http://inside:8000/darkroom/"}


@pytest.fixture
def below() -> TestClient:
    """The whole application below a path; its models are not loaded."""
    return TestClient(create_app(Settings(root_path="/darkroom")), base_url="http://localhost")


@pytest.mark.parametrize("prefix", ["", "/darkroom"])
def test_pages_probes_and_refusals_are_there_below_a_path(below: TestClient, prefix: str) -> None:
    for path in ("/livez", "/docs", "/openapi.json", "/static/swagger/swagger-ui.css"):
        assert below.get(prefix + path).status_code == 200, path
    assert "<title>Darkroom</title>" in below.get(f"{prefix}/").text
    refused = below.delete(f"{prefix}/generate")
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, POST")
    foreign = {"origin": "https://evil.example"}
    assert below.get(f"{prefix}/livez", headers=foreign).status_code == 200
    assert below.get(f"{prefix}/models", headers=foreign).status_code == 403
