"""Java's own HTTP client, which asks every http:// server for HTTP/2."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import assert_same

SOURCE = Path(__file__).parent / "jdk" / "Draw.java"


@pytest.mark.skipif(shutil.which("javac") is None, reason="no JDK is installed")
def test_a_request_that_asks_for_http_2_is_answered(url: str, tmp_path: Path) -> None:
    """The second goes over the connection of the first."""
    files = [tmp_path / "one.png", tmp_path / "two.png"]
    command = ["java", str(SOURCE), url, *map(str, files)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["200 HTTP_1_1"] * 2
    for file in files:
        assert_same(file.read_bytes(), url, **{"class": "7"}, seed=1, steps=10)
