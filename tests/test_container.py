"""A container gives away as little as it needs, and waits as long as it must."""

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()
INSTRUCTIONS = [line.split(None, 1) for line in DOCKERFILE if line and line[0] not in "# "]
STATE = "/var/lib/darkroom"
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


def told(instruction: str) -> list[str]:
    return [rest for name, rest in INSTRUCTIONS if name == instruction]


def test_the_base_image_is_named_by_digest_and_can_be_another() -> None:
    (base,) = (rest for rest in told("ARG") if rest.startswith("PYTHON="))
    assert re.fullmatch(r"PYTHON=python:3\.\d+[a-z0-9.-]*@sha256:[0-9a-f]{64}", base)
    assert [rest.split()[0] for rest in told("FROM")] == ["${PYTHON}", "${PYTHON}"]


def test_the_image_installs_by_hash_and_builds_without_fetching() -> None:
    installs = [run for run in told("RUN") if "pip" in run or "install" in run]
    *installs, compiler = installs
    assert re.match(r'if \[ "\$\{TORCH\}" = cuda \]; then +apt-get update', compiler)
    assert "libsqlite3-0" in compiler, "the store, where the base image has no SQLite"
    assert len(installs) == 2
    assert "requirements/install.py" in installs[0]
    assert "--no-deps" in installs[1]
    assert "--no-build-isolation" in installs[1]


def test_the_image_runs_as_a_user_without_a_name_or_rights() -> None:
    *_, last = told("USER")
    assert all(int(number) > 0 for number in last.split(":"))


def test_the_store_is_on_a_volume_that_any_user_of_group_0_may_write() -> None:
    """https://docs.openshift.com, creating images: an arbitrary user id, whose group is 0."""
    (environment,) = told("ENV")[1:]
    assert f"DARKROOM_STATE_FOLDER={STATE}" in environment.split()
    (made,) = (run for run in told("RUN") if STATE in run)
    owner = told("USER")[-1].split(":")[0]
    assert made == f"mkdir {STATE} && chown {owner}:0 {STATE} && chmod 2770 {STATE}"
    assert told("VOLUME") == [STATE]
    names = [name for name, _ in INSTRUCTIONS]
    assert names.index("VOLUME") > names.index("USER"), "what is made after it is not kept"


@pytest.mark.parametrize(("ready", "status"), [(200, 0), (503, 1)])
def test_the_image_is_healthy_when_the_server_is_ready(ready: int, status: int) -> None:
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(ready)
            self.end_headers()

    (check,) = told("HEALTHCHECK")
    _, *arguments = json.loads(check[check.index("CMD") + 3 :])
    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.handle_request, daemon=True).start()
        environment = {**os.environ, "DARKROOM_PORT": str(server.server_port)}
        done = subprocess.run([sys.executable, *arguments], env=environment, check=False)
    assert done.returncode == status
    assert asked == ["/readyz"]


def test_all_that_the_image_copies_is_sent_to_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignore[0] == "*"
    copied = {name for rest in told("COPY") if "--from" not in rest for name in rest.split()[:-1]}
    assert {f"!{name}" for name in copied} == {line for line in ignore if line[0] == "!"}


def resolved(value: Any, variables: dict[str, str]) -> str:
    """A value of the compose file as compose reads it: ${NAME:-default}."""
    return re.sub(
        r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], str(value)
    )


OURS = sorted(name for name in COMPOSE["services"] if name.startswith("darkroom"))


@pytest.fixture(params=OURS)
def service(request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = COMPOSE["services"][request.param]
    return found


def test_compose_publishes_on_loopback_unless_told_otherwise(service: dict[str, Any]) -> None:
    (port,) = service["ports"]
    assert resolved(port, {}) == "127.0.0.1:8000:8000"
    assert resolved(port, {"PUBLISH": "0.0.0.0", "PORT": "80"}) == "0.0.0.0:80:8000"
    hosts = service["environment"]["DARKROOM_ALLOWED_HOSTS"]
    assert resolved(hosts, {}).split(",") == ["localhost", "127.0.0.1", "[::1]", *OURS]
    assert resolved(hosts, {"DARKROOM_ALLOWED_HOSTS": "a.example"}) == "a.example"


def test_compose_bounds_memory_and_processes(service: dict[str, Any]) -> None:
    memory = resolved(service["mem_limit"], {})
    assert 3 <= int(memory.removesuffix("g")) <= 8  # the service takes 1.7 GB
    assert resolved(service["memswap_limit"], {}) == memory
    assert 128 <= int(resolved(service["pids_limit"], {})) <= 4096
    assert resolved(service["mem_limit"], {"MEMORY": "16g"}) == "16g"
    assert resolved(service["pids_limit"], {"PIDS": "64"}) == "64"


def test_compose_gives_no_rights(service: dict[str, Any]) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"] is True
    assert not {"privileged", "cap_add", "network_mode", "user", "pid"} & set(service)
    models, state = service["volumes"]
    assert resolved(models, {}) == "./runs:/models:ro"
    assert state == f"state:{STATE}"
    assert "state" in COMPOSE["volumes"]


def test_compose_waits_longer_than_the_server_drains(service: dict[str, Any]) -> None:
    drain = int(resolved(service["environment"]["DARKROOM_DRAIN_SECONDS"], {}))
    grace = int(resolved(service["stop_grace_period"], {}).removesuffix("s"))
    assert grace >= drain + 5
