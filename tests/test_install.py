"""requirements/install.py, run without an index: with wheels, locks and a torch made here."""

import base64
import functools
import hashlib
import http.server
import os
import platform
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # pip, a process each
ROOT = Path(__file__).parents[1]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NOWHERE = "http://127.0.0.1:9/whl"  # the discard port: nobody answers


def wheel(folder: Path, name: str, text: str = "", needs: str = "") -> str:
    """Make a wheel of one module; its SHA-256."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": text,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = [f"{info}/RECORD,,"]
    for file, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=")
        record.append(f"{file},sha256={digest.decode()},{len(content)}")
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, f"{info}/RECORD": "\n".join(record)}.items():
            archive.writestr(file, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Machine:
    """A checkout with a lock of one library, and wheels to install from."""

    def __init__(self, folder: Path, torch_needs: str, cpu_index: str = NOWHERE) -> None:
        self.target, self.folder = folder / "target", folder
        (folder / "requirements").mkdir()
        script = (ROOT / "requirements/install.py").read_text(encoding="utf-8")
        assert script.count(CPU_INDEX) == 1
        script = script.replace(CPU_INDEX, cpu_index)
        (folder / "requirements/install.py").write_text(script, encoding="utf-8")
        (folder / "pyproject.toml").write_text('[project]\ndependencies = ["torch==1.0"]\n')
        wheel(folder, "torch", needs=torch_needs)
        for lock, name in (("serve", "library"), ("cuda", "nvidia_library")):
            self.lock(lock, f"{name}==1.0 --hash=sha256:{wheel(folder, name)}")

    def lock(self, name: str, *lines: str) -> None:
        (self.folder / f"requirements/{name}.lock").write_text("\n".join(lines) + "\n")

    def install(self, build: str = "cpu") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, self.folder / "requirements/install.py", "serve", build],
            env={
                **{name: value for name, value in os.environ.items() if name[:4] != "PIP_"},
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_INDEX_URL": NOWHERE,
                "PIP_RETRIES": "0",
                "PIP_FIND_LINKS": str(self.folder),
                "PIP_TARGET": str(self.target),
                "PYTHONPATH": str(self.target),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> set[str]:
        return {path.stem for path in self.target.glob("*.py")}


@pytest.mark.parametrize(
    ("torch_needs", "installed"),
    [
        ("Requires-Dist: sympy", {"library", "torch"}),
        ("Requires-Dist: nvidia-library==1.0", {"library", "torch", "nvidia_library"}),
    ],
    ids=["cpu", "cuda"],
)
def test_a_lock_is_installed_then_torch_and_the_libraries_that_its_build_needs(
    tmp_path: Path, torch_needs: str, installed: set[str]
) -> None:
    machine = Machine(tmp_path, torch_needs)
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert machine.installed() == installed
    compiled = {path.name.split(".")[0] for path in machine.target.glob("__pycache__/*.pyc")}
    assert compiled == installed


def test_libraries_of_cuda_that_this_platform_does_not_have_are_left_out(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "Requires-Dist: nvidia-library==1.0")
    machine.lock("cuda", f"nvidia_library==1.0 ; sys_platform == 'x' --hash=sha256:{'0' * 64}")
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert machine.installed() == {"library", "torch"}


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    wheel(tmp_path, "library", "print('not what was reviewed')")
    done = machine.install()
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert machine.installed() == set()


def test_a_library_without_a_hash_is_not_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    machine.lock("serve", "library==1.0")
    assert machine.install().returncode != 0
    assert machine.installed() == set()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """An index like PyTorch's, whose torch needs no CUDA."""
    folder = tmp_path / "index/torch"
    folder.mkdir(parents=True)
    wheel(folder, "torch", "lean = True")
    (folder / "index.html").write_text('<a href="torch-1.0-py3-none-any.whl">torch</a>')

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=folder.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


LEAN = (sys.platform, platform.machine()) == ("linux", "x86_64")


@pytest.mark.platform
@pytest.mark.skipif(not LEAN, reason="elsewhere every build is for the CPU alone")
@pytest.mark.parametrize(
    ("build", "lean"), [("cpu", True), ("cuda", False)], ids=["for the CPU", "for a GPU"]
)
def test_torch_for_the_cpu_comes_from_its_own_index(
    tmp_path: Path, index: str, build: str, lean: bool
) -> None:
    machine = Machine(tmp_path, "Requires-Dist: nvidia-library==1.0", index)
    done = machine.install(build)
    assert done.returncode == 0, done.stderr
    assert machine.installed() == {"library", "torch"} | (set() if lean else {"nvidia_library"})
    assert ("lean" in (machine.target / "torch.py").read_text()) == lean
    assert f"fetching torch==1.0 for the CPU: about 190 MB, from {index}" in done.stdout or not lean


def test_where_that_index_does_not_answer_the_default_one_is_asked(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    done = machine.install("cpu")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == {"library", "torch"}


def test_it_says_what_it_fetches_and_how_big_that_is(tmp_path: Path) -> None:
    told = Machine(tmp_path, "").install().stdout
    assert "fetching the libraries of requirements/serve.lock: about 100 MB" in told
    assert "fetching torch==1.0: 190 MB to 1 GB" in told


def test_a_build_that_is_none_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "")
    done = machine.install("rocm")
    assert done.returncode != 0
    assert "torch is 'rocm'; allowed: auto, cpu, cuda" in done.stderr
    assert machine.installed() == set()


def test_the_size_of_every_lock_is_known() -> None:
    locks = {path.stem for path in (ROOT / "requirements").glob("*.lock")} - {"cuda"}
    script = (ROOT / "requirements/install.py").read_text(encoding="utf-8")
    assert locks <= set(re.findall(r'"([\w-]+)": \d+', script))
