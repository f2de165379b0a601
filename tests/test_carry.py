"""requirements/carry.py: which wheels another machine needs, by the lock."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def carry(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "requirements")
    spec = importlib.util.spec_from_file_location("carry", ROOT / "requirements/carry.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("install", None)
    return module


def names(lines: list[str]) -> set[str]:
    return {line.partition("==")[0] for line in lines}


def test_all_that_the_benchmark_needs_is_carried_by_hash(carry: ModuleType) -> None:
    lines = carry.chosen("bench-gpu", carry.environment("3.12", "x86_64"), {})
    assert {"fastapi", "diffusers", "psutil", "aiohttp", "uvloop", "numpy"} <= names(lines)
    assert not {"torch", "openvino", "matplotlib", "litserve"} & names(lines)
    assert all("==" in line and " --hash=sha256:" in line and ";" not in line for line in lines)


def test_markers_are_of_the_other_machine(carry: ModuleType) -> None:
    there = carry.environment("3.12", "x86_64")
    assert "colorama" not in names(carry.chosen("bench-gpu", there, {}))
    assert "colorama" in names(carry.chosen("bench-gpu", there | {"sys_platform": "win32"}, {}))


def test_what_is_there_is_not_carried_and_another_version_is_told(
    carry: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "there.txt"
    file.write_text("numpy==1.0\ntyping_extensions @ file:///somewhere/typing.whl\n\n")
    lines = carry.chosen("bench-gpu", carry.environment("3.12", "x86_64"), carry.installed(file))
    assert not {"numpy", "typing-extensions"} & names(lines)
    assert "there: numpy 1.0; the lock has ==" in capsys.readouterr().out


def test_wheels_for_an_older_glibc_run_as_well(carry: ModuleType) -> None:
    tags = carry.platforms(28, "x86_64")
    assert tags[0] == "manylinux_2_28_x86_64"
    assert {"manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64"} <= set(tags)
    assert "manylinux_2_29_x86_64" not in tags
