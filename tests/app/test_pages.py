"""The playground and the documentation name no other server, and may reach none."""

import base64
import hashlib
import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = Path(__file__).parents[2] / "app" / "page"


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


def test_the_documentation_is_found_with_a_slash_as_well(client: TestClient) -> None:
    assert client.get("/docs/").url.path == "/docs"


def test_all_that_the_playground_names_is_here(client: TestClient) -> None:
    """Its scripts and styles, and what these import; the page may have no others."""
    names, seen = ["/"], set[str]()
    while names:
        seen.add(name := names.pop())
        answer = client.get(name)
        assert answer.status_code == 200, name
        policy, kept = answer.headers["content-security-policy"], answer.headers["cache-control"]
        assert policy == (POLICY if name == "/" else "default-src 'none'")
        assert kept == ("no-cache" if name == "/" else "public, max-age=31536000, immutable")
        code = re.sub(r"/\*.*?\*/|http://www\.w3\.org/2000/svg", "", answer.text, flags=re.DOTALL)
        assert "://" not in code, name
        found = re.findall(r'(?:src=|href=|from |import\()"(\./[^"]+|static/[^"]+)"', answer.text)
        named = {urljoin(name, each) for each in found}
        names += named - seen - set(names)
    files = {each.relative_to(PAGE).as_posix() for each in PAGE.rglob("*.*")} - {"index.html"}
    named = {re.sub(r"^/static/page/[0-9a-f]{16}/", "", each) for each in seen - {"/"}}
    assert named == files, "no file is left over"


def test_the_playground_has_nothing_inline(client: TestClient) -> None:
    html = client.get("/").text
    assert not re.search(r"<style|<script(?![^>]* src=)|\sstyle=|\son\w+=|javascript:", html)
    unsafe = r"\beval\(|new Function|innerHTML|outerHTML|document\.write"
    for path in PAGE.rglob("*.js"):
        assert not re.search(unsafe, path.read_text()), path


def test_a_browser_fetches_the_playground_once(client: TestClient) -> None:
    for path in ("/", script_of(client, "/")):
        answer = client.get(path, headers={"accept-encoding": "gzip"})
        assert answer.headers["content-encoding"] == "gzip"
        again = client.get(path, headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == answer.headers["etag"]
    refused = client.post("/")
    assert refused.status_code == 405
    assert set(refused.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_the_playground_is_below_a_prefix() -> None:
    """Its addresses are relative, so its own must end in a slash."""
    client = TestClient(create_app(Settings(root_path="/draw")), base_url="http://localhost")
    page = client.get("/draw")
    assert page.url.path == "/draw/"
    assert not re.search(r'(?:src|href)="/', page.text)
    assert client.get(script_of(client, "/draw/")).status_code == 200


def test_the_playground_s_files_have_other_addresses_when_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a browser, which keeps them for a year, has those of one version or none."""

    def addresses() -> tuple[str, str]:
        client = TestClient(create_app(Settings()), base_url="http://localhost")
        return client.get("/").headers["etag"], script_of(client, "/")

    shutil.copytree(PAGE, tmp_path / "page")
    monkeypatch.setattr("app.http.pages._PLAYGROUND", tmp_path / "page")
    before = addresses()
    assert addresses() == before
    with (tmp_path / "page/js/theme.js").open("a") as file:
        file.write("\n")
    assert all(one != other for one, other in zip(before, addresses(), strict=True))


def script_of(client: TestClient, page: str) -> str:
    """The address of the script that the page names."""
    found = re.search(r'src="(static/page/[^"]+)"', client.get(page).text)
    assert found
    return urljoin(page, found[1])
