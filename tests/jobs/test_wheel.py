"""The wheel has what is no Python: migrations, which make a database, and class sheets."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # builds one
ROOT = Path(__file__).parents[2]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
USE = """
import asyncio, sys
from app.jobs.database import Database
import app
assert app.__file__.startswith(sys.argv[1])
told = Database("sqlite:///" + sys.argv[1] + "/jobs.db")
asyncio.run(told.run(lambda c: c.exec_driver_sql("SELECT * FROM webhook_deliveries").all()))
"""


def test_the_wheel_has_migrations_and_class_sheets(tmp_path: Path) -> None:
    source, installed = tmp_path / "source", tmp_path / "installed"
    ignored = shutil.ignore_patterns("__pycache__", "*.safetensors")
    for folder in ("app", "models"):
        shutil.copytree(ROOT / folder, source / folder, ignore=ignored)
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, source)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path)], cwd=source, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
        names = set(archive.namelist())
    for pattern in ("app/jobs/migrations/versions/*.py", "models/weights/*/classes.png"):
        files = {str(file.relative_to(ROOT)) for file in ROOT.glob(pattern)}
        assert files
        assert files <= names
    subprocess.run(
        [sys.executable, "-c", USE, str(installed)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
    )
