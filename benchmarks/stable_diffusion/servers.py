"""Darkroom and its peer with a folder of Stable Diffusion; what they say, and their memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.servers import OURS, SERVERS, Running, Server, running

DTYPES = ("float32", "bfloat16")
PEER = "diffusers"
NAMES = (OURS, PEER)
_START_SECONDS = 900.0  # a large UNet takes minutes to compile and measure


def server(name: str, folder: Path, dtype: str) -> Server:
    """Ours or the peer, with this folder in this precision."""
    if name == OURS:
        settings = {"MODELS": str(folder), "DTYPE": dtype, "LOAD_SECONDS": f"{_START_SECONDS:g}"}
        return replace(
            SERVERS[OURS], settings={f"DARKROOM_{key}": value for key, value in settings.items()}
        )
    arguments = ("-m", "benchmarks.peers.text_to_image", "--folder", str(folder), "--dtype", dtype)
    return Server("diffusers, FastAPI, a lock", arguments)


@contextmanager
def started(name: str, folder: Path, dtype: str) -> Iterator[Running]:
    """A server that is ready."""
    with running(server(name, folder, dtype)) as one:
        one.wait(one.server.ready, _START_SECONDS)
        yield one


def engine(ours: Running) -> Any:
    """What our server says of its engine."""
    return httpx.get(f"{ours.url}/engine", timeout=30).raise_for_status().json()


def peak_bytes(name: str, one: Running) -> int:
    """The most memory that the process with the networks has had (VmHWM)."""
    pid = engine(one)["worker_pid"] if name == OURS else one.process.pid
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    (kib,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kib << 10
