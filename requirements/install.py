"""Install the libraries of one lock file into the Python that runs this.

    .venv/bin/python requirements/install.py serve
    .venv/bin/python requirements/install.py core cuda

Each file is checked against the hashes in the lock, and only wheels are taken: building a package
would run code that no hash covers. torch alone comes by its exact version and without a hash: which
of its builds fits depends on the machine (CPU, CUDA, a vendor's own), all bear one version, and not
all come from one index. What torch needs is in the locks; the libraries of CUDA have their own.

The second argument says which torch: `cpu` is PyTorch's own build without CUDA, `cuda` what the
default index has, `auto` the first where this machine has no NVIDIA driver. On Linux for x86-64 the
default index has the build for CUDA alone, which brings 2.8 GB that a CPU has no use for. Where
PyTorch's index cannot be reached, the default one is asked all the same.
"""

import compileall
import ctypes
import importlib.metadata
import os
import platform
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
_PATIENCE = 10  # seconds for that index to answer
_DRIVERS = ("libcuda.so.1", "nvcuda.dll")
# Megabytes of wheels for Linux on x86-64, rounded up, as of 2026-11.
SIZES = {"core": 45, "serve": 100, "train": 65, "dev": 485, "bench": 135, "bench-gpu": 60}
TORCH_MB, CUDA_MB = 190, 2800


def torch() -> str:
    """The requirement on torch, with its exact version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs: list[str] = project["dependencies"]
    return next(need for need in needs if need.startswith("torch=="))


def pip(*arguments: str, quiet: bool = True) -> int:
    """Install with pip what `arguments` say and nothing else; its exit status."""
    command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
    command.append("--no-compile")  # on one core; see `compile_modules`
    if quiet:
        command.append("--quiet")
    wheels_only = {"PIP_ONLY_BINARY": ":all:", **os.environ}
    return subprocess.run([*command, *arguments], env=wheels_only, check=False).returncode


def locked(name: str) -> None:
    """Install all that a lock names for this platform, by hash; leave where that fails."""
    if status := pip("--require-hashes", "-r", str(ROOT / "requirements" / f"{name}.lock")):
        sys.exit(status)


def has_driver() -> bool:
    """Whether programs find an NVIDIA driver here."""
    for name in _DRIVERS:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


def lean(build: str) -> bool:
    """Whether to take the build without CUDA from its own index: elsewhere they are the same."""
    if build == "auto":
        build = "cuda" if has_driver() else "cpu"
    linux = (sys.platform, platform.machine()) == ("linux", "x86_64")
    return build == "cpu" and linux


def reachable(index: str) -> bool:
    """Whether an index answers; pip would try for minutes."""
    try:
        urllib.request.urlopen(f"{index}/torch/", timeout=_PATIENCE).close()
    except OSError as error:
        print(f"{index} does not answer ({error}); the default index is asked", flush=True)
        return False
    return True


def install_torch(build: str) -> None:
    """Install torch, and CUDA's libraries if the build needs them; leave where that fails."""
    quiet = not sys.stdout.isatty()  # else pip shows how far it is
    if lean(build) and reachable(CPU_INDEX):
        say(f"{torch()} for the CPU: about {TORCH_MB} MB, from {CPU_INDEX}")
        if not pip(torch(), "--index-url", CPU_INDEX, quiet=quiet):
            return
    say(f"{torch()}: {TORCH_MB} MB to 1 GB, depending on the build in the package index")
    if status := pip(torch(), quiet=quiet):
        sys.exit(status)
    if any(need.startswith("nvidia-") for need in importlib.metadata.requires("torch") or ()):
        say(f"the libraries of CUDA that this torch needs: about {CUDA_MB} MB")
        locked("cuda")


def compile_modules() -> None:
    """Compile what pip installed, on all cores."""
    folder = os.environ.get("PIP_TARGET") or sysconfig.get_path("purelib")
    compileall.compile_dir(folder, workers=0, quiet=2)


def say(text: str) -> None:
    """Tell what is fetched."""
    print(f"fetching {text}", flush=True)


def main(name: str, build: str = "auto") -> None:
    """Install the lock called `name`, then torch in this build."""
    if build not in ("auto", "cpu", "cuda"):
        sys.exit(f"torch is {build!r}; allowed: auto, cpu, cuda")
    say(f"the libraries of requirements/{name}.lock: about {SIZES[name]} MB")
    locked(name)
    install_torch(build)
    compile_modules()


if __name__ == "__main__":
    main(*sys.argv[1:])
