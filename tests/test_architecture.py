"""Imports run downward only, as docs/architecture.md has it."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("app/**/*.py"), *ROOT.glob("models/**/*.py")])


def imports(path: Path) -> set[str]:
    """Every module a file names in an import, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or "", *(f"{node.module}.{a.name}" for a in node.names)}
    return found


def touches(path: Path, *packages: str) -> set[str]:
    return {
        name
        for name in imports(path)
        for package in packages
        if name == package or name.startswith(package + ".")
    }


def under(folder: str) -> list[Path]:
    found = [path for path in FILES if path.is_relative_to(ROOT / folder)]
    assert found
    return found


def test_models_know_nothing_of_http() -> None:
    for path in under("models"):
        assert not touches(path, "app", "fastapi", "starlette", "uvicorn", "pydantic"), path


def test_the_core_of_models_never_imports_training() -> None:
    for path in set(under("models")) - set(under("models/training")):
        assert not touches(path, "models.training"), path


def test_oracles_are_no_dependencies() -> None:
    for path in FILES:
        assert not touches(path, "diffusers", "transformers"), path


def test_one_file_imports_huggingface_hub_and_only_where_it_fetches() -> None:
    users = [path for path in FILES if touches(path, "huggingface_hub")]
    assert users == [ROOT / "models/hub.py"]
    tree = ast.parse(users[0].read_text(encoding="utf-8"))
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "huggingface_hub" not in " ".join(map(ast.unparse, at_the_top))


POLICY = [
    *(f"app.engine.{name}" for name in ("scheduler", "queues", "shares", "parts", "costs")),
    *(f"app.engine.{name}" for name in ("job", "model_info", "errors", "results")),
    *(f"app.engine.{name}" for name in ("learning", "stopwatch", "turns", "keeping")),
    *(f"models.{name}" for name in ("sampling", "conditioning", "sizes", "bounds")),
]


@pytest.mark.parametrize("name", POLICY)
def test_policy_imports_the_standard_library_alone(name: str) -> None:
    path = ROOT / f"{name.replace('.', '/')}.py"
    outside = {module.split(".")[0] for module in imports(path)} - set(sys.stdlib_module_names)
    assert outside <= {"app", "models"}
    assert touches(path, "app", "models") == touches(path, *POLICY)


def test_only_the_runner_s_files_and_its_backends_import_torch() -> None:
    tensors = ("torch", "safetensors", "openvino")
    backends = set(under("app/engine/backends"))
    holders = {path.name for path in set(under("app")) - backends if touches(path, *tensors)}
    assert holders == {"runner.py", "tick.py", "decoding.py", "previews.py"}


def test_the_engine_never_imports_the_web() -> None:
    own = {"app.engine"}
    rooms = {f"app.{path.name}" for path in (ROOT / "app").iterdir() if path.is_dir()} - own
    roots = {f"app.{path.stem}" for path in (ROOT / "app").glob("[a-z]*.py")}
    for path in under("app/engine"):
        assert not touches(path, "fastapi", "starlette", *rooms, *roots), path


def test_imports_run_in_no_circle() -> None:
    """Neither from file to file, nor from one room of the service to another."""
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES}
    files = {name: imports(path) & modules.keys() for name, path in modules.items()}
    TopologicalSorter(files).prepare()
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, used in files.items():
        rooms[room(name)] |= {room(other) for other in used} - {room(name)}
    TopologicalSorter(rooms).prepare()


def room(module: str) -> str:
    """The folder below app/ or models/ that a file is in; a file that is in none is its own."""
    return ".".join(module.split(".")[:2])


def test_the_page_s_modules_import_one_another_in_no_circle() -> None:
    modules = (ROOT / "app/page/js").iterdir()
    graph = {
        path.name: re.findall(r'from "\./([^"]+)"', path.read_text("utf-8")) for path in modules
    }
    assert graph["main.js"]
    TopologicalSorter(graph).prepare()


def test_openvino_reports_to_nobody() -> None:
    code = (
        "import sys, app.engine.backends.openvino, openvino.tools.ovc.telemetry_utils as used;"
        "assert sys.modules['openvino_telemetry'] is None;"
        "assert used.tm.__name__ == 'openvino.tools.ovc.telemetry_stub', used.tm"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True)


def test_importing_the_application_builds_nothing() -> None:
    """No settings, threads or models at import, and no PyTorch before a model is opened."""
    code = (
        "import sys, threading, app.main, app.cli.main;"
        "assert threading.active_count() == 1, threading.enumerate();"
        "assert 'torch' not in sys.modules"
    )
    environment = {"DARKROOM_PORT": "not a number"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=environment)


def test_opening_a_model_imports_nothing_that_only_compilers_need() -> None:
    """Each takes half a second of every start."""
    code = (
        "import sys; from models.library import find; from models.pipeline import LatentDiffusion;"
        "LatentDiffusion.open(find('digits'));"
        "assert not {'sympy', 'torch._dynamo'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
