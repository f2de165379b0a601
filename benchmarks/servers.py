"""The servers that are compared: starting one, watching it, stopping it for certain."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, Any

import click
import psutil

from app.client import Client
from benchmarks.workload import Request

_POLL_SECONDS = 0.01
_START_SECONDS = 180.0
_STOP_SECONDS = 5.0
_LOG_TAIL = 2000  # bytes shown of a server that did not start


@dataclass(frozen=True)
class Server:
    """A server that can be started; it listens on the port in the environment's PORT."""

    title: str
    arguments: tuple[str, ...]  # of Python
    live: str = "/openapi.json"  # answers 200 once the process listens
    ready: str = "/openapi.json"  # answers 200 once images can be had
    settings: Mapping[str, str] = field(default_factory=dict)  # more of the environment


_LOCK = ("-m", "benchmarks.peers.lock")
_THREADS = "2"  # at 16 clients on two cores, the fastest of 1, 2, and 2 that sleep while they wait
OURS = "ours"
SERVERS = {
    OURS: Server("Darkroom", ("-m", "app.cli", "serve"), "/livez", "/readyz"),
    "lock": Server("diffusers, FastAPI, a lock", _LOCK),
    "lock, tuned": Server(
        "diffusers, FastAPI, a lock; tuned threads", (*_LOCK, "--threads", _THREADS)
    ),
    "litserve": Server(
        "LitServe, diffusers in batches",
        ("-m", "benchmarks.peers.litserve_server"),
        ready="/health",
    ),
}


@dataclass
class Running:
    """A server that was started."""

    server: Server
    process: "subprocess.Popen[bytes]"
    port: int
    began: float  # of the process, by time.perf_counter
    log: IO[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, path: str, most: float = _START_SECONDS) -> float:
        """Seconds from the start of the process until GET `path` answers 200.

        Raises:
            click.ClickException: the server stopped, or took longer than `most` seconds.
        """
        while self._status(path) != 200:
            late = time.perf_counter() - self.began > most
            if late or self.process.poll() is not None:
                self.log.seek(0)
                tail = self.log.read()[-_LOG_TAIL:].decode(errors="replace")
                raise click.ClickException(f"{self.server.title} did not start:\n{tail}")
            time.sleep(_POLL_SECONDS)
        return time.perf_counter() - self.began

    def draw(self, request: Request) -> float:
        """Seconds from the start of the process until an image is there."""
        with Client(self.url) as client:
            client.picture(
                class_=str(request.label),
                steps=request.steps,
                guidance_scale=request.guidance_scale,
                seed=request.seed,
            )
        return time.perf_counter() - self.began

    def cpu_seconds(self) -> float:
        """Processor time of the server and its child processes so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def resident_bytes(self) -> int:
        """Resident memory of the server and its child processes; shared pages count in each."""
        return sum(process.memory_info().rss for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def _status(self, path: str) -> int:
        """The status of GET `path`; 0 where nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_STOP_SECONDS)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except OSError:
            return 0
        finally:
            connection.close()


@contextmanager
def running(server: Server) -> Iterator[Running]:
    """Start a server, and stop it with all its children."""
    port = free_port()
    environment = {**server.settings, "PORT": str(port), "DARKROOM_PORT": str(port)}
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        with group(server.arguments, environment, stdout=log, stderr=log) as process:
            yield Running(server, process, port, began, log)


def call(module: str, *arguments: str) -> Any:
    """Run a module of the benchmark in a process of its own; it prints JSON, which is returned."""
    with group(("-m", module, *arguments), {}, stdout=subprocess.PIPE) as process:
        printed, _ = process.communicate()
    if process.returncode:
        raise click.ClickException(f"{module} {arguments[0]} failed")
    return json.loads(printed)


@contextmanager
def group(
    arguments: tuple[str, ...],
    environment: Mapping[str, str],
    **pipes: Any,
) -> Iterator["subprocess.Popen[bytes]"]:
    """Python in a process group of its own. Afterwards nothing in the group is left."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        start_new_session=True,
        **pipes,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
