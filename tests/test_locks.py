"""What is installed is what was reviewed: every version is locked, and every file has a hash."""

import re
import tomllib
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
FILES = {path.stem: path for path in (ROOT / "requirements").glob("*.lock")}
# The extra that each lock serves. CUDA's has what torch needs beside them.
EXTRAS = {
    "core": None,
    "serve": "cpu",
    "train": "train",
    "dev": "dev",
    "bench": "bench",
    "bench-gpu": "bench-gpu",
}
LOCKS = sorted([*EXTRAS, "cuda"])


@cache
def entries(name: str) -> list[tuple[Requirement, list[str]]]:
    """Every requirement of a lock, with its hashes."""
    found = []
    for line in FILES[name].read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            found.append((Requirement(requirement), hashes))
    assert found
    return found


def pinned(name: str) -> dict[str, Requirement]:
    return {canonicalize_name(each.name): each for each, _ in entries(name)}


def version(pin: Requirement) -> str:
    (specifier,) = pin.specifier
    assert specifier.operator == "=="
    return specifier.version


def direct(extra: str | None) -> list[Requirement]:
    """What the project itself needs with an extra."""
    needs = [Requirement(text) for text in PROJECT["dependencies"]]
    for text in PROJECT["optional-dependencies"][extra] if extra else []:
        need = Requirement(text)
        if need.name == PROJECT["name"]:
            needs += [each for name in need.extras for each in direct(name)]
        else:
            needs.append(need)
    return needs


def test_there_is_a_lock_for_each_thing_that_is_installed() -> None:
    assert sorted(FILES) == LOCKS


@pytest.mark.parametrize("name", LOCKS)
def test_every_library_has_one_version_and_a_hash(name: str) -> None:
    for requirement, hashes in entries(name):
        version(requirement)
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes)
    assert len(pinned(name)) == len(entries(name))


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_names_libraries_and_no_place_to_fetch_them_from(name: str) -> None:
    assert not re.search(r"^-|://| @ |-index", FILES[name].read_text(encoding="utf-8"), re.M)


def test_torch_alone_is_in_no_lock_and_has_one_version_all_the_same() -> None:
    assert not [name for name in LOCKS if "torch" in pinned(name)]
    (torch,) = (need for need in direct(None) if need.name == "torch")
    version(torch)


@pytest.mark.parametrize("name", EXTRAS)
def test_all_that_the_project_needs_is_locked_within_its_ranges(name: str) -> None:
    locked = pinned(name)
    for need in direct(EXTRAS[name]):
        if need.name != "torch":
            pin = locked.get(canonicalize_name(need.name))
            assert pin, f"{need} is not in {name}.lock: make lock"
            assert need.specifier.contains(version(pin)), f"{pin}, needed {need}: make lock"


def test_a_library_has_the_same_version_in_every_lock() -> None:
    versions: dict[str, set[str]] = {}
    for name in LOCKS:
        for library, pin in pinned(name).items():
            versions.setdefault(library, set()).add(version(pin))
    assert {library: found for library, found in versions.items() if len(found) > 1} == {}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_build_is_done_by_the_setuptools_of_the_lock(name: str) -> None:
    (build,) = map(Requirement, PYPROJECT["build-system"]["requires"])
    assert version(build) == version(pinned(name)["setuptools"])


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("system", ["linux", "darwin", "win32"])
def test_markers_choose_for_each_platform_and_python(python: str, system: str) -> None:
    machine = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": system,
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
    }

    def chosen(name: str) -> set[str]:
        pins = pinned(name).items()
        return {each for each, pin in pins if not pin.marker or pin.marker.evaluate(machine)}

    assert {"fastapi", "openvino", "numpy", "setuptools", "sympy"} <= chosen("serve")
    assert ("uvloop" in chosen("serve")) is (system != "win32")
    assert bool(chosen("cuda")) is (system == "linux")


@pytest.mark.parametrize("name", EXTRAS)
def test_a_server_without_a_gpu_installs_nothing_of_cuda(name: str) -> None:
    cuda = {each for each in pinned(name) if re.match("nvidia|cuda|triton", each)}
    assert cuda == ({"triton"} if name == "dev" else set())  # whose interpreter the tests use
