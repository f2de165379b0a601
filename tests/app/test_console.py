"""What a process may be started without, and still works or says why."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.console import share_cores

ROOT = Path(__file__).parents[2]
DARKROOM = (sys.executable, "-P", "-m", "app.cli")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def run(command: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A shell's command line in a folder; `$@` is darkroom with its arguments."""
    return subprocess.run(
        ["/bin/sh", "-c", command, "sh", *DARKROOM, *arguments],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


STREAMS = """
import socket, sys
from app.cli.console import open_standard_streams
open_standard_streams()
with socket.socket() as new:
    assert new.fileno() > 2
print("out")
print("err", file=sys.stderr)
assert sys.stdin.read() == ""
open("done", "w").close()
"""


@pytest.mark.parametrize("closed", ["", "<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- 2>&-"])
def test_a_standard_stream_that_is_closed_is_nothing_instead(tmp_path: Path, closed: str) -> None:
    """Neither what is printed nor a new socket takes its place."""
    command = [sys.executable, "-P", "-c", STREAMS]
    done = subprocess.run(
        ["/bin/sh", "-c", f'"$@" {closed}', "sh", *command],
        cwd=tmp_path,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").is_file()
    assert done.stdout == ("" if ">&-" in closed.replace("2>&-", "") else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\n")


@pytest.mark.slow
def test_a_picture_is_drawn_without_any_standard_stream(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ["--model", str(tiny_folder), "--steps", "2", "--out", "x.png"]
    done = run('"$@" <&- >&- 2>&-', tmp_path, "sample", *flags)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("command", [["sample", "--steps", "2"], ["serve"], ["models"]])
def test_a_working_directory_that_is_gone_is_said(tmp_path: Path, command: list[str]) -> None:
    done = run('rmdir "$PWD" && "$@"', tmp_path, *command)
    assert done.returncode == 1
    message = "Error: the working directory does not exist any more; change to another one\n"
    assert done.stderr == message


@pytest.mark.parametrize(("cores", "threads"), [(1, "1"), (64, None)])
def test_a_quota_bounds_threads(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: str | None
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(64), raising=False)
    monkeypatch.setattr("app.cli.console.usable_cores", lambda: cores)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    share_cores()
    assert os.environ.get("OMP_NUM_THREADS") == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    share_cores()
    assert os.environ["OMP_NUM_THREADS"] == "7", "who said so knows better"


def broken(folder: Path) -> None:
    """Modules of our names that are not ours."""
    for name in ("app.py", "models.py", "torch.py", "asyncio.py"):
        (folder / name).write_text("raise SystemExit('not ours')")


def packages(folder: Path) -> None:
    for name in ("app", "models"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise SystemExit('not ours')")


@pytest.mark.slow
@pytest.mark.parametrize("litter", [broken, packages])
def test_what_lies_in_the_working_directory_is_not_imported(
    tmp_path: Path, tiny_folder: Path, litter: Callable[[Path], None]
) -> None:
    """The server starts its worker there, and not even the directory need stay."""
    litter(tmp_path)
    code = (
        "import asyncio, os, shutil, sys\n"
        "from app.launching import create_engine\n"
        "from app.settings import Settings\n"
        "async def main():\n"
        "    shutil.rmtree(os.getcwd())\n"
        "    engine = create_engine(Settings(models=(sys.argv[1],), backend='eager'))\n"
        "    await engine.start()\n"
        "    await engine.loaded(50)\n"
        "    print(*engine.models)\n"
        "    await engine.close()\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tiny_folder)],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "tiny\n"), done.stderr
