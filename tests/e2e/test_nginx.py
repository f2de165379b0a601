"""Behind nginx as docs/operations.md configures it, but for TLS: keys, events, addresses."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import KEY
from tests.e2e.live import ROOT, wait_until, web

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
HEADERS = {"x-api-key": KEY, "host": "pics.example.org"}
AROUND = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""


def configured(folder: Path, port: int, upstream: str) -> Path:
    """The block of the page, as a whole configuration that listens without TLS."""
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```nginx\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    block = re.sub(r"^\s*ssl_.*\n", "", block, flags=re.MULTILINE)
    block = block.replace("listen 443 ssl;", f"listen 127.0.0.1:{port};")
    block = block.replace("http://127.0.0.1:8000", upstream)
    assert str(port) in block
    assert upstream in block
    file = folder / "nginx.conf"
    file.write_text(AROUND.format(folder=folder, server=block))
    return file


@pytest.fixture(scope="module")
def proxied(keyed_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Where nginx listens, and where the server does."""
    folder = tmp_path_factory.mktemp("nginx")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    file = configured(folder, port, keyed_url)
    nginx = subprocess.Popen(["nginx", "-c", file, "-e", folder / "error.log"])
    url = f"http://127.0.0.1:{port}/darkroom"
    try:
        wait_until(lambda: answers(url, nginx))
        yield url, keyed_url
    finally:
        nginx.terminate()
        assert nginx.wait(10) == 0


def answers(url: str, nginx: "subprocess.Popen[bytes]") -> bool:
    assert nginx.poll() is None
    try:
        return web.get(f"{url}/livez", headers={"host": "pics.example.org"}).status_code == 200
    except httpx.TransportError:
        return False


def test_keys_pass_and_addresses_have_the_prefix(proxied: tuple[str, str]) -> None:
    url, _ = proxied
    wanted = {"class": "cat", "steps": 2}
    assert (
        web.post(f"{url}/generate", json=wanted, headers={"host": HEADERS["host"]}).status_code
        == 401
    )
    for sent in ({"authorization": f"Bearer {KEY}"}, {"x-api-key": KEY}):
        drawn = web.post(f"{url}/generate", json=wanted, headers=HEADERS | sent)
        assert drawn.status_code == 200, drawn.text
        assert drawn.headers["content-location"].startswith("/darkroom/images/")
    again = web.get(
        url.removesuffix("/darkroom") + drawn.headers["content-location"], headers=HEADERS
    )
    assert again.content == drawn.content
    assert web.get(f"{url}/docs", headers={"host": HEADERS["host"]}).status_code == 200


def test_events_come_as_they_happen(proxied: tuple[str, str]) -> None:
    """The first while the request still runs, as the server itself says."""
    url, upstream = proxied
    wanted = {"class": "cat", "steps": 1000, "n": 4}
    headers = HEADERS | {"accept": "text/event-stream"}
    with web.stream("POST", f"{url}/generate", json=wanted, headers=headers, timeout=60) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: queued"
        while next(lines) != "event: progress":
            pass
        assert web.get(f"{upstream}/engine", headers=HEADERS).json()["jobs"] == 1
    wait_until(lambda: not web.get(f"{upstream}/engine", headers=HEADERS).json()["jobs"])


def test_a_body_that_is_too_large_is_refused_by_nginx_already(proxied: tuple[str, str]) -> None:
    url, _ = proxied
    refused = web.post(f"{url}/generate", content=b"x" * (1 << 17), headers=HEADERS)
    assert refused.status_code == 413


def test_wrong_keys_are_counted_by_the_client_s_address_and_not_by_what_it_claims(
    proxied: tuple[str, str],
) -> None:
    url, _ = proxied
    transport = httpx.HTTPTransport(local_address="127.0.0.7")
    with httpx.Client(transport=transport, headers={"host": HEADERS["host"]}) as client:
        for number in range(30):
            forged = {
                "x-api-key": "wrong",
                "x-forwarded-for": f"192.0.2.{number}",
                "forwarded": "for=192.0.2.9",
            }
            last = client.get(f"{url}/models", headers=forged)
    assert last.status_code == 429
    other = HEADERS | {"x-api-key": "wrong"}
    assert web.get(f"{url}/models", headers=other).status_code == 401
