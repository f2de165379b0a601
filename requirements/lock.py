"""Write the lock files: the version of every library, and the hashes of all its files.

    make lock                                          after a change of pyproject.toml
    make lock ARGS="--upgrade"                         everything at its newest
    make lock ARGS="--upgrade-package fastapi"         one library at its newest

Versions that a lock names already are kept. Everything is resolved together first, for every
platform and every Python that the project allows: a library has the same version in every lock.
"""

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from install import ROOT, torch

HERE = Path(__file__).parent
LOCKS = {
    "core": ("hub", "postgres", "s3"),  # a server on a GPU
    "serve": ("cpu", "hub", "postgres", "s3"),
    "train": ("train",),
    "dev": ("dev",),
    "bench": ("bench",),
    "bench-gpu": ("bench-gpu",),
}
# What PyTorch for CUDA needs and PyTorch for the CPU does not.
CUDA = re.compile(r"(nvidia|cuda)-.*|triton")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
BUILD = "\n".join(PROJECT["build-system"]["requires"])


def names(text: str) -> set[str]:
    """Packages that a requirements file names."""
    return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))


def resolve(pins: str, *options: str, needs: str, without: Iterable[str] = ()) -> str:
    """Requirements that fulfil `needs` and `options`, at the versions of `pins` where these fit."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-header"]
    command += ["--universal", "--fork-strategy", "fewest"]
    command += ["--python-version", PROJECT["project"]["requires-python"][2:]]
    for name in sorted(without):
        command += ["--no-emit-package", name]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "requirements.txt"
        output.write_text(pins, encoding="utf-8")
        command += ["--output-file", str(output), *options, "-"]
        done = subprocess.run(command, cwd=ROOT, input=needs, text=True, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        return output.read_text(encoding="utf-8")


def write(name: str, pins: str, *options: str, needs: str, without: set[str]) -> None:
    """Write one lock with hashes, at the versions of `pins`."""
    text = resolve(pins, "--generate-hashes", *options, needs=needs, without=without)
    locked = text.split("\n# The following packages were excluded")[0]
    head = "# Written by `make lock`; installed by install.py."
    (HERE / f"{name}.lock").write_text(f"{head}\n{locked}", encoding="utf-8")


def main() -> None:
    """Resolve everything, then write each lock; the arguments go to uv's resolver."""
    before = "".join(path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.lock")))
    pins = resolve(before, "--all-extras", "pyproject.toml", *sys.argv[1:], needs=BUILD)
    cuda = {name for name in names(pins) if CUDA.fullmatch(name)}
    for name, extras in LOCKS.items():
        options = [option for extra in extras for option in ("--extra", extra)]
        without = {"torch", *cuda} - ({"triton"} if name == "dev" else set())  # tests run kernels
        write(name, pins, *options, "pyproject.toml", needs=BUILD, without=without)
    write("cuda", pins, needs=torch(), without=names(pins) - cuda)


if __name__ == "__main__":
    main()
