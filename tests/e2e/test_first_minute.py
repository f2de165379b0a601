"""What somebody sees who starts the server for the first time."""

import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.e2e.live import ROOT, wait_until, web

pytestmark = pytest.mark.server
SERVE = (sys.executable, "-m", "app.cli", "serve")


def test_it_says_what_it_does_and_what_to_try(tiny_folder: Path, tmp_path: Path) -> None:
    """A request that comes before it is ready gets its picture; so does the command it shows."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"MODELS": f"shoes={tiny_folder}", "BACKEND": "eager", "PORT": str(port)}
    environment = os.environ | {f"DARKROOM_{name}": value for name, value in settings.items()}
    told: list[str] = []
    with subprocess.Popen(
        SERVE, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        reading = threading.Thread(target=lambda: told.extend(server.stderr or ()))
        reading.start()
        try:
            wait_until(lambda: any("answers" in line for line in told))
            early = web.post(
                f"http://localhost:{port}/generate",
                data={"class": "cat", "seed": "1"},
                timeout=60,
            )
            assert early.status_code == 200
            assert early.headers["content-type"] == "image/png"
            wait_until(lambda: any("try: " in line for line in told))
            command = next(line.split("try: ")[1] for line in told if "try: " in line)
            subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True)
            assert (tmp_path / "picture.png").read_bytes() == early.content

            second = subprocess.run(SERVE, cwd=ROOT, env=environment, stderr=-1, text=True)
            assert second.returncode == 1
            message = rf"Error: port {port} is in use at 'localhost'; port \d+ is free: PORT=\d+"
            assert re.match(message, second.stderr.splitlines()[-1]), second.stderr
        finally:
            server.terminate()
            assert server.wait(30) == 0
            reading.join()
    text = "".join(told)
    assert f"http://localhost:{port} answers; loading shoes" in text
    assert re.search(rf"ready in \d+ s: http://localhost:{port}\n", text)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DARKROOM_MODLES", "digits", "DARKROOM_MODLES is not a setting; nearest: DARKROOM_MODELS"),
        ("DARKROOM_PORT", "eighty", "should be a valid integer"),
        ("DARKROOM_HOST", "nobody.invalid", "no such host: 'nobody.invalid'"),
    ],
)
def test_what_is_wrong_with_a_setting_is_one_line(name: str, value: str, message: str) -> None:
    done = subprocess.run(
        SERVE, cwd=ROOT, env=os.environ | {name: value}, stderr=-1, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert message in done.stderr
