"""Install the libraries of one lock file into the Python that runs this.

    .venv/bin/python requirements/install.py serve

Each file is checked against the hashes in the lock, and only wheels are taken: building a package
would run code that no hash covers. torch alone comes by its exact version and without a hash: which
of its builds fits depends on the machine (CPU, CUDA, a vendor's own), all bear one version, and not
all come from one index. What torch needs is in the locks; the libraries of CUDA have their own.
"""

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def torch() -> str:
    """The requirement on torch, with its exact version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs: list[str] = project["dependencies"]
    return next(need for need in needs if need.startswith("torch=="))


def pip(*arguments: str) -> None:
    """Install with pip what `arguments` say and nothing else; leave with its status if it fails."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wheels_only = {"PIP_ONLY_BINARY": ":all:", **os.environ}
    done = subprocess.run([*command, "--no-deps", *arguments], env=wheels_only, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def locked(name: str) -> None:
    """Install all that a lock names for this platform, by hash."""
    pip("--require-hashes", "-r", str(ROOT / "requirements" / f"{name}.lock"))


def main(name: str) -> None:
    """Install the lock called `name`, torch, and CUDA's libraries if that torch needs them."""
    locked(name)
    pip(torch())
    if any(need.startswith("nvidia-") for need in importlib.metadata.requires("torch") or ()):
        locked("cuda")


if __name__ == "__main__":
    main(*sys.argv[1:])
