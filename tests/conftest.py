"""A model small enough to make anew, with random weights, and the server around it."""

import atexit
import functools
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Before PyTorch is imported, and for the servers that tests start: the networks here are so small
# that a second thread costs more than it does, and half of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Before models.convolution is: there is no GPU to compile its kernels for.
os.environ["TRITON_INTERPRET"] = "1"

import pytest
import torch
from fastapi.testclient import TestClient

import app.engine.backends  # noqa: F401  (before a test imports OpenVINO)
from app.cli.opening import open_runner
from app.main import create_app
from app.settings import Settings
from models.checkpoint import save_checkpoint
from models.pipeline import LatentDiffusion
from models.unet import UNet2D
from models.vae import AutoencoderKL
from tests.e2e import live
from tests.marks import (  # noqa: F401  (hooks)
    pytest_collection_modifyitems,
    pytest_itemcollected,
    pytest_make_collect_report,
    pytest_runtest_makereport,
    pytest_xdist_make_scheduler,
)
from tests.tiny import SCHEDULE, UNET, VAE

CLASSES = ("cat", "dog", "3")
_STATES = itertools.count()
_SHARED = tempfile.mkdtemp(prefix="darkroom-")  # state of applications that several tests share
atexit.register(shutil.rmtree, _SHARED, ignore_errors=True)
os.environ["DARKROOM_STATE_FOLDER"] = _SHARED


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the jobs of another, or of whoever runs them."""
    folder = tmp_path_factory.getbasetemp() / f"state-{next(_STATES)}"
    monkeypatch.setenv("DARKROOM_STATE_FOLDER", str(folder))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional model folder; its third class is called like another's index."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_checkpoint(
        folder,
        vae=AutoencoderKL(VAE),
        unet=UNet2D(UNET),
        schedule=SCHEDULE,
        classes=CLASSES,
        guidance_scale=1.5,
    )
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> LatentDiffusion:
    return LatentDiffusion.open(tiny_folder)


@pytest.fixture(scope="session")
def stable_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny Stable Diffusion by its name in tests/stable.py, written once."""
    from tests import stable  # imports diffusers, which takes seconds

    @functools.cache
    def folder(name: str) -> Path:
        return stable.save(name, tmp_path_factory.mktemp("stable") / name)

    return folder


@pytest.fixture(scope="session")
def stable_url(stable_folder: Callable[[str], Path]) -> Iterator[str]:
    """The real server with small Stable Diffusions, and one that cannot be served."""
    from tests.stable import SMALL

    models = ",".join(str(stable_folder(name)) for name in (*SMALL, "inpainting"))
    with live.serving(models=models, slots=8, rows=8, within=240) as (url, _):
        yield url


_open_runner = functools.cache(open_runner)


@pytest.fixture
def opened_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line has opened stays open: it takes seconds, and draws the same again."""
    for command in ("sample", "verify"):
        monkeypatch.setattr(f"app.cli.{command}.open_runner", _open_runner)


@pytest.fixture(scope="session")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The whole application over the tiny model, with its real engine: the plain loop's bits."""
    state = tmp_path_factory.mktemp("state")  # servers of one folder draw each other's jobs
    settings = Settings(models=(str(tiny_folder),), slots=8, backend="eager", state_folder=state)
    with serving(settings) as client:
        yield client


@pytest.fixture(scope="session")
def url() -> Iterator[str]:
    """The real server in a process of its own, with the shipped model `digits`."""
    with live.serving() as (url, _):
        yield url


KEY = "dk_" + "abcdefghij" * 4


@pytest.fixture(scope="session")
def keyed_url(tiny_folder: Path) -> Iterator[str]:
    """The real server with the tiny model, which needs `KEY` and believes a proxy on loopback."""
    settings = {
        "models": f"digits={tiny_folder}",
        "backend": "eager",
        "api_keys": f"alice: {KEY}",
        "rate": "18000/hour",
        "trusted_proxies": "127.0.0.1",
        "allowed_hosts": "*",
        "keep_alive_seconds": 75,
    }
    with live.serving(headers={"x-api-key": KEY}, **settings) as (url, _):
        yield url


@contextmanager
def serving(settings: Settings) -> Iterator[TestClient]:
    """A server that is ready."""
    with TestClient(
        create_app(settings), base_url="http://localhost", raise_server_exceptions=False
    ) as client:
        live.wait_until(lambda: client.get("/readyz").status_code == 200)
        yield client
