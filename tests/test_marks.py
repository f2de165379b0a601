"""What tests are marked with, and what comes of it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.fixture
def url():
    return "http://localhost"

def test_quick(): ...
@pytest.mark.slow
def test_slow(): ...
def test_of_the_server(url): ...
@pytest.mark.skipif(True, reason="no npm")
def test_that_needs_npm(): ...
def test_that_needs_java():
    pytest.skip("no JDK")
@pytest.mark.platform
@pytest.mark.skipif(True, reason="no IPv6")
def test_that_needs_ipv6(): ...
@pytest.mark.xfail(reason="not mended yet")
def test_that_is_known_to_fail():
    assert False
"""


def run(folder: Path, *flags: str, **environment: str) -> tuple[str, dict[str, str]]:
    """What is told of the tests in a folder, and each one's end, in the order that they ran in."""
    plugins = ["-p", "tests.marks", "-p", "no:cacheprovider"]
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder)]
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", *plugins, *config, *flags, str(folder)],
        cwd=ROOT,
        env={**inherited, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout
    return told, dict(re.findall(r"::test_(\w+) ([A-Z]+)", told))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def test_what_is_skipped_for_want_of_a_tool_fails_in_ci(folder: Path) -> None:
    told, ends = run(folder)
    assert ends["that_needs_npm"] == ends["that_needs_java"] == "SKIPPED", told
    told, ends = run(folder, CI="1")
    assert (ends["that_needs_npm"], ends["that_needs_java"]) == ("ERROR", "FAILED"), told
    assert "no npm" in told
    assert ends["that_needs_ipv6"] == "SKIPPED"
    assert ends["that_is_known_to_fail"] == "XFAIL"


def test_a_module_that_is_skipped_fails_in_ci(folder: Path) -> None:
    (folder / "test_it.py").write_text("import pytest\npytest.importorskip('no_such_library')\n")
    told, _ = run(folder)
    assert "1 skipped" in told
    told, _ = run(folder, CI="1")
    assert "1 error" in told
    assert "no_such_library" in told


def test_what_takes_long_comes_first_and_can_be_left_out(folder: Path) -> None:
    _, ends = run(folder)
    assert list(ends)[:3] == ["slow", "of_the_server", "quick"]
    _, ends = run(folder, "-m", "not (server or training or slow)")
    assert next(iter(ends)) == "quick"
    assert "of_the_server" not in ends


def test_files_with_a_shared_server_run_in_one_process_and_the_others_file_by_file(
    tmp_path: Path,
) -> None:
    sharing = "import pytest\n@pytest.fixture\ndef url(): ...\ndef test_it(\n    url: str): ...\n"
    plain = "def test_one(): ...\ndef test_two(): ...\n"
    for number in range(8):
        text = sharing if number % 2 else plain
        (tmp_path / f"test_{number}.py").write_text(text)
    told, _ = run(tmp_path, "-p", "xdist", "-n", "2", "--dist", "loadfile")
    ran = re.findall(r"\[gw(\d)\] .*PASSED \S*test_(\d)\.py::", told)
    assert len(ran) == 12, told
    by_file = [{process for process, file in ran if file == str(number)} for number in range(8)]
    assert len(set.union(*by_file[1::2])) == 1
    assert all(len(processes) == 1 for processes in by_file)
    assert len(set.union(*by_file)) == 2
