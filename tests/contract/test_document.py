"""The OpenAPI document against the server that publishes it, with the shipped model.

Here a short look; `make contract` takes every phase, and more examples.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

HERE = Path(__file__).parent
REDOCLY = "@redocly/cli@2.77.0"


def test_the_server_does_what_the_document_says(url: str, tmp_path: Path) -> None:
    """Every check of Schemathesis over every operation."""
    pytest.importorskip("schemathesis")
    command = [
        *(sys.executable, "-m", "schemathesis.cli"),
        *("--config-file", str(HERE / "schemathesis.toml")),
        *("run", f"{url}/openapi.json", "--no-color"),
        *("--checks", "all"),
        *("--request-timeout", "120", "--max-response-time", "120", "--workers", "1"),
    ]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(HERE)}
    if thorough := os.environ.get("SCHEMATHESIS_EXAMPLES"):
        phases = "examples,coverage,fuzzing,stateful"
        command += ["--phases", phases, "--max-examples", thorough]
    else:
        command += ["--phases", "examples,fuzzing,stateful", "--max-examples", "8"]
        command += ["--generation-deterministic"]
        environment["QUICK"] = "1"
    ran = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert httpx.get(f"{url}/engine").json()["restarts"] == 0


@pytest.mark.skipif(shutil.which("npx") is None, reason="npm is not installed")
def test_the_document_lints_clean(url: str, tmp_path: Path) -> None:
    """Redocly's recommended rules: no error, no warning."""
    document = tmp_path / "openapi.json"
    document.write_bytes(httpx.get(f"{url}/openapi.json").content)
    ran = subprocess.run(
        ["npx", "--yes", REDOCLY, "lint", "--format", "json", str(document)],
        cwd=tmp_path,
        env={**os.environ, "REDOCLY_TELEMETRY": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"problems": []' in ran.stdout, ran.stdout[-4000:] + ran.stderr[-2000:]
