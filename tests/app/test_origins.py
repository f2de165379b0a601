"""Who may ask: pages of allowed origins, by names that are the server's own; and curl, always."""

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.types import Message

from app.main import create_app
from app.settings import Settings

EVIL = "https://evil.test"
HOST = "localhost:8000"
WORKS = [
    ("POST", "/generate"),
    ("GET", "/generate?class=7"),
    ("HEAD", "/generate?class=7"),
    ("GET", "/images/x.png"),
    ("HEAD", "/images/x.png"),
    ("POST", "/models/digits"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/models/any/digits/predictions"),
    ("POST", "/v1/predictions/x/cancel"),
    ("POST", "/sdapi/v1/txt2img"),
    ("POST", "/sdapi/v1/interrupt"),
    ("POST", "/sdapi/v1/skip"),
    ("POST", "/sdapi/v1/png-info"),
    ("POST", "/sdapi/v1/options"),
    ("POST", "/sdapi/v1/refresh-checkpoints"),
    ("GET", "/sdapi/v1/progress"),
    ("GET", "/sdapi/v1/sd-models"),
    ("GET", "/models"),
    ("GET", "/engine"),
    ("GET", "/v1/models"),
    ("GET", "/v2/models/digits"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
    ("PUT", "/generate"),
    ("DELETE", "/livez"),
    ("POST", "/docs"),
]
PROBES = ["/livez", "/readyz", "/v2/health/live", "/v2/health/ready"]
FOREIGN_ORIGINS = [
    EVIL,
    "http://evil.test:8000",
    "null",
    "NULL",
    "",
    " ",
    "localhost",
    "localhost:8000",
    "//localhost",
    "http:localhost",
    "http:/localhost",
    "http://",
    "http://localhost.evil.com",
    "http://evil.com.localhost.evil.com",
    "http://notlocalhost",
    "http://localhost@evil.test",
    "http://localhost:80@evil.test",
    "http://evil.test@localhost",  # no browser sends a user's name
    "http://evil.test:80#localhost",
    "http://evil.test/localhost",
    "http://evil.test?localhost",
    "http://evil.test\\localhost",
    "http://localhost:99999",
    "http://localhost:x",
    "http://localhost localhost",
    "http://localhost,http://evil.test",
    "http://localhost, http://evil.test",
    "http://127.0.0.1.nip.io",
    "http://127.0.0.1.evil.test",
    "http://127.0.0.256",
    "http://127.1",
    "http://0x7f000001",
    "http://2130706433",
    "http://0177.0.0.1",
    "http://0.0.0.0:3000",
    "http://10.0.0.1",
    "http://[::]",
    "http://[::2]",
    "http://[::1",
    "http://::1",
    "http://[::1].evil.test",
    "http://[::ffff:10.0.0.1]",
    "http://[fe80::1%25lo]",
    "http://.localhost",
    "http://..localhost",
    "http://localhost..",
    "http://loc\xe4lhost",
    "http://*",
    "*",
    "ftp://localhost",
    "file://",
    "file://localhost",
    "tauri://localhost",
    "chrome-extension://abcdefghijklmnop",
    "data:text/html,localhost",
    "javascript://localhost",
]
URLS = ["http://localhost/", "http://localhost:8000/docs", "http://localhost?", "http://localhost#"]
ALLOWED_ORIGINS = [
    "http://localhost",
    "https://localhost",
    "http://localhost:3000",
    "http://localhost:8000",
    "HTTP://LocalHost:3000",
    "http://localhost.:3000",
    "http://app.localhost:5173",
    "http://a.b.localhost",
    "http://127.0.0.1:8000",
    "http://127.255.255.254",
    "http://[::1]:8000",
    "http://[0:0:0:0:0:0:0:1]",
    "http://[::ffff:127.0.0.1]",
]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(Settings())  # its models are not loaded: what is allowed answers 503


@pytest.fixture
def client(app: FastAPI) -> TestClient:
    return client_of(app)


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)


def with_settings(**settings: Any) -> TestClient:
    return client_of(create_app(Settings(**settings)))


def refused(answer: Any) -> bool:
    """Whether it is a 403, which must then be whole."""
    if answer.status_code != 403:
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["x-request-id"]
    if answer.request.method != "HEAD":
        assert answer.json()["status"] == 403
        assert "DARKROOM_" in answer.json()["detail"], "it names the setting"
    return True


@pytest.mark.parametrize(("method", "path"), WORKS)
def test_a_foreign_page_gets_nothing(client: TestClient, method: str, path: str) -> None:
    for headers in (
        {"origin": EVIL},
        {"origin": "null"},
        {"origin": EVIL, "sec-fetch-site": "cross-site"},
        {"origin": EVIL, "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "cross-site", "referer": f"{EVIL}/page"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"},
        {"sec-fetch-site": "cross-site", "sec-fetch-dest": "document"},
    ):
        assert refused(client.request(method, path, headers=headers)), headers


@pytest.mark.parametrize(("method", "path"), WORKS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"user-agent": "curl/8"},
        {"referer": f"{EVIL}/page"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://localhost:8000", "sec-fetch-site": "same-origin"},
        {"origin": "http://127.0.0.1:3000", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-mode": "cors"},  # as Node.js sends it
        {"sec-fetch-site": "cross-site", "referer": "http://127.0.0.1:3000/album?x=1"},
        {"sec-fetch-site": "cross-site", "referer": "http://127.0.0.1:3000"},
    ],
    ids=str,
)
def test_others_are_answered(
    client: TestClient, method: str, path: str, headers: dict[str, str]
) -> None:
    answer = client.request(method, path, headers=headers)
    assert answer.status_code != 403
    assert "Origin" in answer.headers["vary"]
    assert answer.headers.get("access-control-allow-origin") == headers.get("origin")


@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
def test_an_origin_that_is_not_loopback(client: TestClient, origin: str) -> None:
    sent = origin.encode("latin-1")
    assert refused(client.get("/models", headers={"origin": sent}))
    assert refused(preflight(client, origin))
    page = {"sec-fetch-site": b"cross-site", "referer": sent}
    assert refused(client.get("/models", headers=page))


@pytest.mark.parametrize("url", URLS)
def test_a_url_is_no_origin_but_has_one(client: TestClient, url: str) -> None:
    assert refused(client.get("/models", headers={"origin": url}))
    page = {"sec-fetch-site": "cross-site", "referer": url}
    assert client.get("/models", headers=page).status_code == 200


@pytest.mark.parametrize("origin", ALLOWED_ORIGINS)
def test_an_origin_that_is_loopback(client: TestClient, origin: str) -> None:
    answer = client.get("/models", headers={"origin": origin})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == origin
    assert "X-Seed" in answer.headers["access-control-expose-headers"]
    assert preflight(client, origin).headers["access-control-allow-origin"] == origin
    page = {"sec-fetch-site": "cross-site", "referer": f"{origin}/x"}
    assert client.get("/models", headers=page).status_code == 200


def preflight(client: TestClient, origin: str, path: str = "/generate", **more: str) -> Any:
    asked = {
        "origin": origin.encode("latin-1"),
        "access-control-request-method": b"POST",
        "access-control-request-headers": b"content-type, x-request-id",
        **{name.replace("_", "-"): value.encode() for name, value in more.items()},
    }
    return client.options(path, headers=asked)


@pytest.mark.parametrize("path", ["/generate", "/sdapi/v1/interrupt", "/livez", "/docs", "/none"])
def test_preflights_are_answered_by_the_same_rule(client: TestClient, path: str) -> None:
    private = {"access_control_request_private_network": "true"}
    for more in ({}, private):
        assert refused(preflight(client, EVIL, path, **more))
        assert refused(preflight(client, "null", path, **more))
        answer = preflight(client, "http://localhost:3000", path, **more)
        assert answer.status_code == 200
        assert "POST" in answer.headers["access-control-allow-methods"]
        allowed = answer.headers["access-control-allow-headers"]
        assert allowed == "content-type, x-request-id"
        granted = answer.headers.get("access-control-allow-private-network")
        assert granted == ("true" if more else None)


@pytest.mark.parametrize(
    "origins",
    [
        (EVIL, "http://localhost"),
        ("http://localhost", EVIL),
        ("http://localhost", "null"),
        ("http://localhost", ""),
    ],
)
def test_of_several_origins_all_must_be_allowed(
    client: TestClient, origins: tuple[str, str]
) -> None:
    assert refused(client.get("/models", headers=[("origin", each) for each in origins]))


@pytest.mark.parametrize("path", PROBES)
def test_a_foreign_page_may_probe_and_learns_nothing(client: TestClient, path: str) -> None:
    answer = client.get(path, headers={"origin": EVIL, "sec-fetch-site": "cross-site"})
    assert answer.status_code in (200, 503)
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"]
    assert refused(client.post(path, headers={"origin": EVIL}))


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc"])
def test_links_lead_to_the_pages(client: TestClient, path: str) -> None:
    followed = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
        "referer": f"{EVIL}/",
    }
    assert client.get(path, headers=followed).status_code == 200
    for more in ({"sec-fetch-dest": "iframe"}, {"sec-fetch-dest": "empty"}, {"origin": EVIL}):
        assert refused(client.get(path, headers=followed | more))
    assert refused(client.post(path, headers=followed))
    assert refused(client.get("/generate?class=7", headers=followed))


def test_the_document_says_that_any_request_may_be_refused(client: TestClient) -> None:
    for operations in client.get("/openapi.json").json()["paths"].values():
        for operation in operations.values():
            assert {"403", "4XX"} & operation["responses"].keys(), operation["operationId"]


def test_nothing_is_read_before_it_is_refused() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("the body is read")

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"origin", EVIL.encode()), (b"content-length", b"9")]
    scope = {"type": "http", "method": "POST", "path": "/generate", "headers": headers}
    asyncio.run(create_app(Settings())(scope, receive, send))
    assert sent[0]["status"] == 403


GOOD_HOSTS = [
    "localhost",
    "localhost:8000",
    "localhost:",
    "LOCALHOST:1",
    "localhost.",
    "localhost.:8000",
    "darkroom.localhost:8000",
    "127.0.0.1",
    "127.0.0.1:9999",
    "127.8.9.10:80",
    "127.0.0.1.",
    "[::1]",
    "[::1]:8000",
    "[0:0::1]:8000",
]
BAD_HOSTS = [
    "evil.test",
    "evil.test:8000",
    "localhost.evil.test",
    "evil-localhost",
    "127.0.0.1.nip.io:8000",
    "127.0.0.1..",
    "10.0.0.1",
    "0.0.0.0:8000",
    "::1",
    "[::1",
    "[::2]:8000",
    "[::1]evil.test",
    "localhost@evil.test",
    "evil.test@localhost",
    "user:localhost@evil.test:8000",
    "localhost:port",
    "localhost:99999",
    "localhost:8000:8000",
    "localhost/",
    "localhost evil.test",
    "localhost,evil.test",
    "http://localhost",
    "localhost..",
    ".localhost",
    "loc\xe4lhost",
    "",
    "-" * 10_000,
    "a." * 10_000,
]


@pytest.mark.parametrize("bound", ["127.0.0.1", "localhost", "::1", "127.0.0.2", "LOCALHOST"])
def test_a_server_on_loopback_is_called_by_loopback_names(bound: str) -> None:
    client = with_settings(host=bound)
    for host in GOOD_HOSTS:
        assert client.get("/models", headers={"host": host}).status_code == 200, host
    for host in BAD_HOSTS:
        for path in ("/models", "/livez", "/docs"):
            assert refused(client.get(path, headers={"host": host.encode("latin-1")})), host
    assert refused(client.get("/models", headers=[("host", "localhost"), ("host", "localhost")]))


def test_an_origin_like_the_host_is_its_own_only_where_the_host_is() -> None:
    rebound = {"host": "evil.test:8000", "origin": "http://evil.test:8000"}
    assert refused(with_settings().get("/models", headers=rebound))
    assert refused(with_settings(cors_origins="*").get("/models", headers=rebound))
    assert (
        with_settings(allowed_hosts="evil.test").get("/models", headers=rebound).status_code == 200
    )
    elsewhere = with_settings(host="0.0.0.0")
    assert elsewhere.get("/models", headers=rebound).status_code == 200
    for origin in ("http://evil.test", "http://evil.test:8001", "http://a.evil.test:8000"):
        assert refused(elsewhere.get("/models", headers=rebound | {"origin": origin}))


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        ("darkroom.test", "http://darkroom.test", True),
        ("darkroom.test", "https://darkroom.test", True),  # where a proxy speaks TLS
        ("darkroom.test:80", "http://darkroom.test", True),
        ("darkroom.test:443", "https://darkroom.test", True),
        ("DARKROOM.test.", "http://darkroom.TEST", True),
        ("[fd00::1]:8000", "http://[fd00:0::1]:8000", True),
        ("darkroom.test:8000", "http://darkroom.test", False),
        ("darkroom.test:443", "http://darkroom.test", False),
        ("darkroom.test", "ftp://darkroom.test:1", False),
        ("", "http://darkroom.test", False),
    ],
)
def test_its_own_origin(host: str, origin: str, own: bool) -> None:
    client = with_settings(host="0.0.0.0", cors_origins="none")
    answer = client.get("/models", headers={"host": host, "origin": origin})
    assert refused(answer) is not own


def test_a_page_beside_it_on_a_real_name_is_foreign() -> None:
    """Of the same site by its name, without an Origin: what names the page is the Referer."""
    client = with_settings(host="0.0.0.0")
    beside = {"host": "draw.example.org", "sec-fetch-site": "same-site"}
    assert refused(client.get("/generate", headers=beside))
    own = beside | {"referer": "http://draw.example.org/docs"}
    assert client.get("/models", headers=own).status_code == 200


def test_hosts_are_listed() -> None:
    listed = "darkroom.lan, FD00::1,[fd00::2] , 192.0.2.7"
    for bound in ("127.0.0.1", "0.0.0.0"):
        client = with_settings(host=bound, allowed_hosts=listed)
        for host in (
            "darkroom.lan:1",
            "Darkroom.LAN.",
            "[fd00::1]",
            "[fd00:0:0::2]:8",
            "192.0.2.7",
        ):
            assert client.get("/models", headers={"host": host}).status_code == 200, host
        assert client.get("/livez").status_code == 200, "loopback names stay"
        for host in ("a.darkroom.lan", "lan", "192.0.2.8", "[fd00::3]"):
            assert refused(client.get("/models", headers={"host": host})), host
    for client in (with_settings(allowed_hosts="*"), with_settings(host="0.0.0.0")):
        for host in (*BAD_HOSTS, *GOOD_HOSTS):
            answer = client.get("/models", headers={"host": host.encode("latin-1")})
            assert answer.status_code == 200, host


def test_origins_are_listed() -> None:
    listed = "https://app.example.org, http://Other.example.org:8080/,chrome-extension://abc"
    client = with_settings(cors_origins=listed)
    for origin in (
        "https://app.example.org",
        "https://app.example.org:443",
        "http://other.example.org:8080",
        "chrome-extension://abc",
        "http://localhost:3000",
    ):
        assert client.get("/models", headers={"origin": origin}).status_code == 200, origin
        assert preflight(client, origin).status_code == 200
    for origin in (
        "http://app.example.org",
        "https://app.example.org:444",
        "https://a.app.example.org",
        "https://app.example.org.evil.test",
        "http://other.example.org",
        "chrome-extension://abcd",
        "null",
    ):
        assert refused(client.get("/models", headers={"origin": origin})), origin


def test_any_origin_where_it_is_asked_for() -> None:
    client = with_settings(cors_origins="*")
    for origin in (EVIL, "null", "http://localhost:3000"):
        answer = client.get("/models", headers={"origin": origin})
        assert answer.headers["access-control-allow-origin"] == "*"
        private = {"access_control_request_private_network": "true"}
        asked = preflight(client, origin, **private)
        assert asked.headers["access-control-allow-origin"] == "*"
        assert asked.headers["access-control-allow-private-network"] == "true"
    assert client.get("/models", headers={"sec-fetch-site": "cross-site"}).status_code == 200


def test_none_is_none_but_its_own() -> None:
    client = with_settings(cors_origins=" None ")
    assert client.get("/models", headers={"origin": f"http://{HOST}"}).status_code == 200
    assert client.get("/models").status_code == 200
    for headers in ({"origin": "http://localhost:3000"}, {"sec-fetch-site": "same-site"}):
        assert refused(client.get("/models", headers=headers))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "cors_origins",
            "app.example.org",
            "'app.example.org' is not an origin; allowed: scheme://",
        ),
        ("cors_origins", "https://app.example.org/page", "is not an origin"),
        ("cors_origins", "https://app.example.org//", "is not an origin"),
        ("cors_origins", "https://*.example.org", "is not an origin"),
        ("cors_origins", "https://user@example.org", "is not an origin"),
        ("cors_origins", "https://example.org:99999", "is not an origin"),
        ("cors_origins", "https://example.org https://b.example.org", "is not an origin"),
        ("cors_origins", "null", "is not an origin"),
        ("cors_origins", "localhost:3000", "is not an origin"),
        ("cors_origins", "none,https://example.org", "'none' cannot be combined"),
        ("allowed_hosts", "http://darkroom.lan", "is not a host; allowed: a name or an address"),
        ("allowed_hosts", "darkroom.lan:8000", "is not a host"),
        ("allowed_hosts", "[::1]:8000", "is not a host"),
        ("allowed_hosts", "*.lan", "is not a host"),
        ("allowed_hosts", "a b", "is not a host"),
        ("allowed_hosts", "::g", "is not a host"),
        ("trusted_proxies", "proxy.lan", "does not appear to be an IPv4 or IPv6 network"),
        ("trusted_proxies", "10.0.0.1/8", "has host bits set"),
        ("trusted_proxies", "*", "does not appear to be an IPv4 or IPv6 network"),
        ("trusted_proxies", "127.0.0.1:80", "does not appear to be an IPv4 or IPv6 network"),
    ],
)
def test_a_wrong_entry_stops_the_server(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(f"DARKROOM_{name.upper()}", value)
    with pytest.raises(ValidationError, match=message):
        Settings()


def test_lists_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DARKROOM_TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8,::1")
    assert Settings().trusted_proxies == ("127.0.0.1", "10.0.0.0/8", "::1")
    monkeypatch.setenv("DARKROOM_TRUSTED_PROXIES", "")
    assert Settings().trusted_proxies == ()
    assert Settings().cors_origins == Settings().allowed_hosts == ()


def test_caches_are_told_once_what_an_answer_depends_on(client: TestClient) -> None:
    """With a page's origin or without: the same words, in one line, whatever the route said."""
    origin = {"Origin": f"http://{HOST}"}
    for path in ("/livez", "/generate?class=0&seed=1"):
        plain, asked = client.get(path), client.get(path, headers=origin)
        assert plain.headers.get_list("vary") == asked.headers.get_list("vary")
        assert plain.headers["vary"].split(", ")[-1] == "Origin"
        assert "access-control-allow-origin" not in plain.headers
        assert asked.headers["access-control-allow-origin"] == origin["Origin"]
