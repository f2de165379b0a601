"""What needs a key, what a request with one may do, and how each dialect says no."""

import asyncio
import base64
import hashlib
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import APIRouter, Depends, Request, Response
from fastapi.testclient import TestClient
from starlette.types import Message

from app.access.failures import PER_MINUTE
from app.dependencies import AdminDep, _admin
from app.http.routing import Router
from app.main import create_app
from app.settings import Settings
from tests.engine import served
from tests.fakes import FakeRunner

ALICE, BOB, ROOT = ("dk_" + letter + "bcdefghij" * 4 for letter in "aBr")
KEYS = f"alice: {ALICE}, bob: {BOB} max_priority=3"
OPENED = ("/", "/docs", "/redoc", "/openapi.json", "/static/fastapi/favicon.png")
PROBES = ("/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready")


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


@pytest.fixture(scope="module")
def runner() -> FakeRunner:
    return FakeRunner()


@pytest.fixture(scope="module")
def keyed(runner: FakeRunner) -> Iterator[TestClient]:
    with served(runner, api_keys=KEYS, admin_key=ROOT) as (client, _):
        router = APIRouter()

        @router.post("/models/fake/unload")
        async def unload(_: AdminDep) -> str:
            return "done"

        client.app.router.routes[:0] = router.routes  # type: ignore[attr-defined]
        yield client


@pytest.mark.parametrize("path", [*OPENED, *PROBES])
def test_pages_and_probes_are_open(keyed: TestClient, path: str) -> None:
    assert keyed.get(path).status_code == 200
    assert keyed.head(path).status_code in (200, 405)
    assert keyed.get(path, headers=bearer("wrong")).status_code == 200


def test_everything_else_in_the_document_needs_a_key(keyed: TestClient) -> None:
    """A route that is added later is closed unless somebody opens it."""
    document = keyed.get("/openapi.json").json()
    assert document["security"] == [{"bearer": []}, {"header": []}, {"basic": []}]
    names = {
        "name": "fake",
        "model": "fake",
        "owner": "local",
        "version": "1",
        "job_id": "none",
        "index": 0,
        "prediction_id": "none",
    }
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = keyed.request(method, path.format(**names))
            opened = path in (*PROBES, "/metrics")
            assert (answer.status_code != 401) is opened, path
            assert operation.get("security", document["security"]) == (
                [] if opened else document["security"]
            )
            if not opened:
                assert answer.headers["www-authenticate"]
                assert "401" in operation["responses"] or "4XX" in operation["responses"]
    for path in ("/nothing", "/v1/nothing", "/livez/", "/images/x.png"):
        assert keyed.get(path).status_code == 401, path


def test_without_keys_the_document_knows_of_none() -> None:
    with served(FakeRunner()) as (client, _):
        document = client.get("/openapi.json").json()
        assert document["security"] == []
        assert "securitySchemes" not in document["components"]
        assert client.get("/models", headers=bearer("whatever")).status_code == 200


ENVELOPES: list[tuple[str, str, Any]] = [
    ("POST", "/generate", lambda b: b["error"] == b["detail"] and b["status"] == 401),
    ("POST", "/models/fake", lambda b: isinstance(b["error"], str)),
    ("GET", "/engine", lambda b: b["title"] == "Unauthorized"),
    (
        "POST",
        "/v1/images/generations",
        lambda b: (
            (b["error"]["type"], b["error"]["code"]) == ("invalid_request_error", "invalid_api_key")
        ),
    ),
    ("GET", "/v1/models", lambda b: b["error"]["message"].startswith("an API key is needed")),
    ("GET", "/v1/models/fake", lambda b: b["error"]["param"] is None),
    ("POST", "/v1/predictions", lambda b: (b["status"], b["title"]) == (401, "Unauthorized")),
    ("POST", "/v1/models/local/fake/predictions", lambda b: b["status"] == 401),
    ("GET", "/v1/predictions", lambda b: b["status"] == 401),
    ("GET", "/v1/predictions/x", lambda b: b["status"] == 401),
    ("POST", "/v1/predictions/x/cancel", lambda b: b["status"] == 401),
    ("POST", "/sdapi/v1/txt2img", lambda b: b["detail"].startswith("an API key")),
    ("GET", "/sdapi/v1/options", lambda b: b["error"] == "Unauthorized"),
    ("GET", "/v2", lambda b: list(b) == ["error"]),
    ("GET", "/v2/models/fake", lambda b: b["error"].startswith("an API key is needed")),
]


@pytest.mark.parametrize(("method", "path", "right"), ENVELOPES)
def test_each_dialect_says_it_in_its_own_way(
    keyed: TestClient, method: str, path: str, right: Any
) -> None:
    answer = keyed.request(method, path, headers={"authorization": ""})
    assert answer.status_code == 401
    assert right(answer.json()), answer.text
    scheme = "Basic" if path.startswith("/sdapi") else "Bearer"
    assert answer.headers["www-authenticate"] == f'{scheme} realm="darkroom"'
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("headers", [[], [(b"x-api-key", b"wrong")]])
def test_a_refusal_reads_no_body(headers: list[tuple[bytes, bytes]]) -> None:
    app, sent = create_app(Settings(api_keys=KEYS)), []  # type: ignore[arg-type]

    async def receive() -> Message:
        await asyncio.sleep(60)
        raise AssertionError("the body was waited for")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/images/generations",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-length", b"99999999"), *headers],
        "client": ("192.0.2.1", 1),
    }
    asyncio.run(asyncio.wait_for(app(scope, receive, send), 10))
    assert sent[0]["status"] == 401


def test_an_admin_s_route_is_closed_whatever_it_returns() -> None:
    """Routes that return a `Response` are called without dependencies, but for these."""
    router = Router()

    @router.post("/one")
    async def one(request: Request, _: AdminDep) -> Response:
        return Response(request.url.path)

    @router.post("/two", dependencies=[Depends(_admin)])
    async def two(request: Request) -> Response:
        return Response(request.url.path)

    app = create_app(Settings(admin_key=ROOT))  # type: ignore[arg-type]
    app.router.routes += router.routes
    http = TestClient(app, base_url="http://localhost")
    for path in ("/one", "/two"):
        assert http.post(path).status_code == 401
        assert http.post(path, headers=bearer(ROOT)).text == path


@pytest.mark.parametrize(
    "headers",
    [
        bearer(ALICE),
        {"authorization": f"Token {ALICE}"},
        {"authorization": "Basic " + base64.b64encode(f"user:{ALICE}".encode()).decode()},
        {"authorization": "", "x-api-key": ALICE},
    ],
)
def test_a_key_lets_in_as_itself(
    keyed: TestClient, runner: FakeRunner, headers: dict[str, str]
) -> None:
    answer = keyed.post("/generate", json={"steps": 1}, headers=headers)
    assert answer.status_code == 200, answer.text
    assert keyed.get("/models", headers=headers).json()["models"]


def test_requests_of_a_key_are_one_client_from_everywhere() -> None:
    runner, asked = FakeRunner(), []
    with served(runner, api_keys=KEYS) as (client, engine):
        generate = engine.generate

        async def noting(request: Any, watch: Any = None) -> Any:
            asked.append(request.asker.client)
            return await generate(request, watch)

        engine.generate = noting  # type: ignore[method-assign]
        for address, secret in [("192.0.2.1", ALICE), ("2001:db8::1", ALICE), ("192.0.2.1", BOB)]:
            client._transport.client = (address, 1)  # type: ignore[attr-defined]
            for path, body in [("/generate", {"steps": 1}), ("/v1/predictions", {})]:
                body = body or {"version": "local/fake", "input": {"prompt": "a"}}
                headers = bearer(secret) | {"prefer": "wait"}
                assert client.post(path, json=body, headers=headers).status_code < 300
    assert asked == ["key:alice"] * 4 + ["key:bob"] * 2


def test_a_key_may_have_a_priority_of_its_own(keyed: TestClient) -> None:
    wanted = {"steps": 1, "priority": 3}
    assert keyed.post("/generate", json=wanted, headers=bearer(BOB)).status_code == 200
    refused = keyed.post("/generate", json=wanted, headers=bearer(ALICE))
    assert refused.status_code == 422
    assert "must be at most 0 here" in refused.json()["detail"]
    schema = keyed.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]
    assert schema["properties"]["priority"]["maximum"] == 3


def test_two_keys_of_one_address_do_not_end_each_others_requests() -> None:
    from app.routes.automatic1111.routes import _whose

    class Request:
        client = None

        def __init__(self, **state: object) -> None:
            self.scope = {"state": state, "client": ("192.0.2.1", 1)}

    with served(FakeRunner(), api_keys=KEYS) as (client, _):
        keys = {key.name: key for key in client.app.state.admission.keyring.keys}  # type: ignore[attr-defined]
    assert _whose(Request(key=keys["alice"])) == "key:alice"  # type: ignore[arg-type]
    assert _whose(Request(key=keys["bob"])) == "key:bob"  # type: ignore[arg-type]


def test_wrong_keys_are_limited_by_network_and_right_ones_are_not() -> None:
    with served(FakeRunner(), api_keys=KEYS, client="2001:db8::1") as (client, _):
        for number in range(PER_MINUTE):
            answer = client.get("/models", headers=bearer(f"wrong{number}"))
            assert answer.status_code == 401
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        client._transport.client = ("2001:db8::ffff", 2)  # type: ignore[attr-defined]
        for path in ("/generate", "/v1/images/generations", "/sdapi/v1/txt2img"):
            answer = client.post(path, headers=bearer("wrong"), content=b"not read")
            assert answer.status_code == 429
            assert 0 < int(answer.headers["retry-after"]) <= 60
            assert "too many wrong API keys" in answer.text
        assert client.get("/models").status_code == 401, "to send none is not to send a wrong one"
        assert client.get("/models", headers=bearer(ALICE)).status_code == 200
        client._transport.client = ("2001:db8:0:1::1", 3)  # type: ignore[attr-defined]
        assert client.get("/models", headers=bearer("wrong")).status_code == 401


def test_a_page_is_told_why_and_its_preflight_passes(keyed: TestClient) -> None:
    """The browser asks first, without a key; then the page may read what it lacks."""
    page = {"origin": "http://localhost:3000"}
    asking = {
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-api-key",
    }
    preflight = keyed.options("/generate", headers=page | asking)
    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["access-control-allow-headers"]
    refused = keyed.post("/generate", json={}, headers=page)
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == page["origin"]
    assert "WWW-Authenticate" in refused.headers["access-control-expose-headers"]
    assert keyed.post("/generate", json={}, headers=page | bearer(ALICE)).status_code == 200
    foreign = {"origin": "https://evil.example"} | bearer(ALICE)
    assert keyed.post("/generate", json={}, headers=foreign).status_code == 403


def test_only_an_admin_key_changes_the_server(keyed: TestClient) -> None:
    def unload(headers: dict[str, str]) -> Any:
        return keyed.post("/models/fake/unload", headers=headers)

    assert unload(bearer(ROOT)).json() == "done"
    assert unload({"x-api-key": ROOT}).status_code == 200
    assert unload({}).status_code == unload(bearer("wrong")).status_code == 401
    refused = unload(bearer(ALICE))
    assert refused.status_code == 403
    assert "needs an admin key" in refused.json()["detail"]
    assert keyed.post("/generate", json={"steps": 1}, headers=bearer(ROOT)).status_code == 200


@pytest.mark.parametrize(
    ("settings", "client", "headers", "status"),
    [
        ({}, "127.0.0.1", {}, 200),
        ({}, "::1", {}, 200),
        ({}, "127.0.0.1", {"x-forwarded-for": "192.0.2.1"}, 403),
        ({}, "192.0.2.1", {}, 403),
        ({"host": "::"}, "127.0.0.1", {}, 403),
        ({"root_path": "/darkroom"}, "127.0.0.1", {}, 403),
        ({"api_keys": KEYS}, "127.0.0.1", {}, 401),
        ({"api_keys": KEYS}, "127.0.0.1", bearer(ALICE), 403),
        ({"api_keys": f"{KEYS} admin"}, "192.0.2.1", bearer(BOB), 200),
        ({"admin_key": ROOT}, "127.0.0.1", {}, 401),
        ({"admin_key": ROOT}, "127.0.0.1", bearer("wrong"), 401),
        ({"admin_key": ROOT}, "192.0.2.1", bearer(ROOT), 200),
    ],
)
def test_without_an_admin_key_only_this_machine_does(
    settings: dict[str, str], client: str, headers: dict[str, str], status: int
) -> None:
    app = create_app(Settings(**settings))  # type: ignore[arg-type]

    @app.post("/change")
    async def change(_: AdminDep) -> str:
        return "done"

    http = TestClient(app, base_url="http://localhost", client=(client, 1))
    path = settings.get("root_path", "") + "/change"
    answer = http.post(path, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 403 and "authorization" not in headers:
        assert "DARKROOM_ADMIN_KEY" in answer.json()["detail"]


def test_with_an_admin_key_alone_drawing_is_open_and_guesses_are_counted() -> None:
    app = create_app(Settings(admin_key=ROOT))

    @app.post("/change")
    async def change(_: AdminDep) -> str:
        return "done"

    http = TestClient(app, base_url="http://localhost")
    for _ in range(PER_MINUTE + 1):
        assert http.get("/engine", headers=bearer("sk-whatever")).status_code == 200
    statuses = [http.post("/change", headers=bearer("x")).status_code for _ in range(50)]
    assert statuses == [401] * PER_MINUTE + [429] * (50 - PER_MINUTE)


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"host": "::"}, True),
        ({"host": "192.0.2.1"}, True),
        ({"host": "::", "admin_key": ROOT}, True),
        ({"host": "::", "api_keys": KEYS}, False),
        ({"host": "localhost"}, False),
        ({"host": "127.0.0.2"}, False),
    ],
)
def test_a_server_that_is_open_to_the_world_says_so(
    settings: dict[str, str], caplog: pytest.LogCaptureFixture, *, warned: bool
) -> None:
    with caplog.at_level(logging.WARNING):
        app = create_app(Settings(**settings))  # type: ignore[arg-type]
        app.state.admission.warn(app.state.settings.host)
    assert ("there are no keys" in caplog.text) is warned


def test_a_hash_is_no_key(keyed: TestClient) -> None:
    digest = hashlib.sha256(ALICE.encode()).hexdigest()
    for said in (digest, f"sha256:{digest}", ALICE.upper(), ALICE[:-1], ALICE + "\0"):
        assert keyed.get("/models", headers={"x-api-key": said}).status_code in (401, 429)
