"""The pages of the documentation name no other server, and may reach none."""

import base64
import hashlib
import re
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(create_app(Settings()), base_url="http://localhost")


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_all_that_a_page_names_is_here(client: TestClient, path: str) -> None:
    page = client.get(path).text
    assert "://" not in page
    named = re.findall(r"""(?:src|href|spec-url)="(.+?)"|url: '(.+?)'""", page)
    addresses = {urljoin(path, first or second) for first, second in named}
    assert "/openapi.json" in addresses
    assert len(addresses) >= 3
    for address in addresses:
        answer = client.get(address)
        assert answer.status_code == 200, address
        assert len(answer.content) > 500


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_may_run_its_own_scripts_alone(client: TestClient, path: str) -> None:
    answer = client.get(path)
    policy = dict(
        part.strip().partition(" ")[::2]
        for part in answer.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    inline = re.findall(r"<script>(.*?)</script>", answer.text, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for s in inline]
    assert policy["script-src"].split() == ["'self'", *(f"'sha256-{each}'" for each in hashes)]
    assert len(inline) == (path == "/docs")


def test_redoc_finds_its_logo(client: TestClient) -> None:
    answer = client.get("/redoc/logo-mini.svg")
    assert answer.headers["content-type"] == "image/svg+xml"


def test_the_files_are_those_of_the_pages_and_no_others(client: TestClient) -> None:
    for path in ("/static/", "/static/../main.py", "/static/%2e%2e/__init__.py", "/static/nothing"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"


def test_the_first_page_is_the_documentation(client: TestClient) -> None:
    assert client.get("/").url.path == "/docs"
    assert client.get("/docs/").url.path == "/docs"
