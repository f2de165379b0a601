"""The Makefile, asked what it would do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def planned(folder: Path, target: str = "serve") -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", "-n", target],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name[:4] != "MAKE"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def checkout(folder: Path) -> Path:
    """A copy of what `make serve` goes by, whose environment is up to date."""
    (folder / "requirements").mkdir(parents=True)
    for name in ("Makefile", "pyproject.toml", *map(str, ROOT.glob("requirements/*"))):
        source = ROOT / name
        if source.is_file():
            shutil.copy2(source, folder / source.relative_to(ROOT))
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").symlink_to(sys.executable)
    (folder / ".venv/.python").write_text(str(folder))
    for name in (".serve", ".dev"):
        (folder / ".venv" / name).touch()
    return folder


def test_an_environment_is_made_once(tmp_path: Path) -> None:
    assert planned(checkout(tmp_path / "here")).splitlines() == [".venv/bin/darkroom serve"]


@pytest.mark.parametrize("target", ["check", "lint", "test"])
def test_each_check_is_made_once(tmp_path: Path, target: str) -> None:
    """The rules of imports among them: by their own name, or as one of the tests."""
    plan = planned(checkout(tmp_path / "here"), target)
    for tool in ("/ruff check", "/ruff format --check", "/mypy", "-m pytest"):
        assert plan.count(tool) == 1, plan
    assert ("tests/test_architecture.py" in plan) == (target == "lint")
    assert ("not (server or training or slow)" in plan) == (target == "check")


def test_a_checkout_that_has_moved_gets_a_new_environment(tmp_path: Path) -> None:
    """The scripts of a virtual environment name the place that it was made in."""
    checkout(tmp_path / "here").rename(tmp_path / "there")
    plan = planned(tmp_path / "there")
    assert "-m venv --clear .venv" in plan
    assert "requirements/install.py serve auto" in plan


def test_an_environment_whose_python_is_gone_is_made_anew(tmp_path: Path) -> None:
    folder = checkout(tmp_path / "here")
    (folder / ".venv/bin/python").unlink()
    (folder / ".venv/bin/python").symlink_to("/no/such/python")
    assert "-m venv --clear .venv" in planned(folder)
