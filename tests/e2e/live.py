"""The real server in a process of its own, with real sockets."""

import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
from PIL import Image

ROOT = Path(__file__).parents[2]
SERVE = (sys.executable, "-m", "app.cli", "serve")
# Instead of httpx's own functions, each of which reads the world's certificates: 30 ms of a core,
# while servers start on it. As these do, it opens a connection for each request.
web = httpx.Client(
    verify=False,
    trust_env=False,
    limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
)


@contextmanager
def serving(
    command: Sequence[str] = SERVE,
    meanwhile: Callable[[str], object] = lambda _: None,
    within: float = 90,
    headers: Mapping[str, str] = MappingProxyType({}),
    port: int | None = None,
    **settings: object,
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A server that is ready, and its process; it is told to stop, and must, with its worker.

    `meanwhile` is called with its address while it starts, for which it has `within` seconds.
    `headers` have a key, where the server needs one. Without a `port`, a free one is taken; without
    a `state_folder`, it has one of its own: servers of one folder draw each other's jobs.
    """
    port = port or free_port()
    state = tempfile.TemporaryDirectory(prefix="darkroom-", ignore_cleanup_errors=True)
    settings = {"port": port, "drain_seconds": 2, "state_folder": state.name, **settings}
    environment = {f"DARKROOM_{name.upper()}": str(value) for name, value in settings.items()}
    # It runs no kernel of Triton's, and starts sooner where it does not look for them.
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    process = subprocess.Popen(command, cwd=ROOT, env=inherited | environment)
    url = f"http://127.0.0.1:{port}"
    try:
        meanwhile(url)
        wait_until(lambda: ready(url, process), within)
        yield url, process
        worker = engine(url, headers)["worker_pid"] if process.poll() is None else None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        if worker:
            wait_until(lambda: not alive(worker))
    finally:
        process.kill()
        process.wait()
        state.cleanup()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def ready(url: str, process: "subprocess.Popen[bytes]") -> bool:
    assert process.poll() is None, "the server ended"
    try:
        return web.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def wait_until(
    happens: Callable[[], object],
    seconds: float = 120,
    seen: Callable[[], object] = lambda: "nothing",
) -> None:
    """Wait for something, long enough for any machine; or tell what is `seen` instead."""
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"not in {seconds} seconds: {seen()}"
        time.sleep(0.05)


def engine(url: str, headers: Mapping[str, str] = MappingProxyType({})) -> dict[str, int]:
    stats: dict[str, int] = web.get(f"{url}/engine", headers=dict(headers)).json()
    return stats


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and nobody waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def draw(url: str, body: dict[str, object], client: httpx.Client | None = None) -> bytes:
    post = client.post if client else web.post
    answer = post(f"{url}/generate", json=body, timeout=240)
    assert answer.status_code == 200, answer.text
    return answer.content


def pixels(png: bytes) -> bytes:
    with Image.open(io.BytesIO(png)) as image:
        assert image.size == (32, 32)
        return image.tobytes()
