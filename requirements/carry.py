"""Download the wheels of a lock for another machine, where nothing can be downloaded.

    .venv/bin/python requirements/carry.py bench-gpu wheels --python 3.12 --there there.txt

`there.txt` is what that machine has already, as `python3 -m pip list --format=freeze` prints it
there: what it names is left out, in whatever version. torch is never carried. On that machine, for
a folder of its own that Python is told of:

    python3 -m pip install --no-index --no-deps --target site wheels/*.whl
    export PYTHONPATH=$PWD/site
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from install import ROOT, SIZES
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# Older names of glibc 2.5, 2.12 and 2.17.
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
_OLDEST_GLIBC = 5


def entries(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Every requirement of a lock, with the options that give its hashes."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            said, *hashes = re.split(r"\s+(?=--hash=)", line.strip())
            yield Requirement(said), hashes


def environment(python: str, machine: str) -> dict[str, str]:
    """What markers see on that machine."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }


def platforms(glibc: int, machine: str) -> list[str]:
    """The tags of wheels that run where glibc is 2.`glibc`, newest first."""
    tags = []
    for minor in range(glibc, _OLDEST_GLIBC - 1, -1):
        tags.append(f"manylinux_2_{minor}_{machine}")
        if minor in _LEGACY:
            tags.append(f"{_LEGACY[minor]}_{machine}")
    return tags


def installed(file: Path | None) -> dict[str, str]:
    """Library -> version of what the machine has, by the output of `pip list --format=freeze`."""
    lines = file.read_text(encoding="utf-8").splitlines() if file else []
    pairs = (re.split("==| @ ", line.strip(), maxsplit=1) for line in lines if line.strip())
    return {canonicalize_name(name): "".join(version) for name, *version in pairs}


def chosen(name: str, markers: dict[str, str], there: dict[str, str]) -> list[str]:
    """The lines of a lock that are carried; says which libraries differ from those that are not."""
    lines = []
    for requirement, hashes in entries(name):
        if requirement.marker and not requirement.marker.evaluate(markers):
            continue
        version = there.get(canonicalize_name(requirement.name))
        if version is None:
            lines.append(" ".join([f"{requirement.name}{requirement.specifier}", *hashes]))
        elif not requirement.specifier.contains(version, prereleases=True):
            print(f"there: {requirement.name} {version}; the lock has {requirement.specifier}")
    return lines


def download(lines: list[str], folder: Path, python: str, tags: list[str]) -> int:
    """Fetch wheels by their hashes; the exit status of pip."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "carried.txt"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
        command += ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:"]
        command += ["--implementation", "cp", "--python-version", python, "--dest", str(folder)]
        command += [part for tag in tags for part in ("--platform", tag)]
        return subprocess.run([*command, "-r", str(file)], check=False).returncode


def main() -> None:
    """Download what is asked for, and say how large it is."""
    options = argparse.ArgumentParser(description="Download wheels for another machine.")
    options.add_argument("lock", choices=list(SIZES))
    options.add_argument("folder", type=Path)
    options.add_argument("--python", default="3.12", help="its version there")
    options.add_argument("--machine", default="x86_64", help="as `uname -m` says there")
    options.add_argument("--glibc", type=int, default=28, help="28 for 2.28, by `ldd --version`")
    options.add_argument("--there", type=Path, help="a file of what is installed there")
    given = options.parse_args()
    markers = environment(given.python, given.machine)
    lines = chosen(given.lock, markers, installed(given.there))
    tags = platforms(given.glibc, given.machine)
    if status := download(lines, given.folder, given.python, tags):
        sys.exit(status)
    size = sum(path.stat().st_size for path in given.folder.glob("*.whl"))
    print(f"{len(lines)} wheels, {size / 2**20:.0f} MiB in {os.fspath(given.folder)}")


if __name__ == "__main__":
    main()
