"""What clients cost that follow their jobs and never read a byte of it: memory of the server.

    python -m benchmarks.never_reads
    python -m benchmarks.never_reads --jobs 1000 --readers 0 --readers 1 --readers 100

For each number of readers a server of its own is started, over a device that takes no time. The
readers connect to /jobs/events and take nothing; then the jobs are accepted and drawn, with
previews. Resident memory is that of the server's process, without its worker, which has no part in
it. The server with no reader tells what the jobs alone take.
"""

import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import click
import httpx
import psutil

from benchmarks.report import table
from benchmarks.servers import Running, Server, running

_HERE = Path(__file__).parents[1]
_SERVER = Path(__file__).with_name("free_server.py")
_HEADS = ("readers", "before", "most", "after", "for each reader, of most")
_BUFFER = 4096  # bytes that a reader's kernel holds for it, at least
_SLOTS = 4  # so few that most of the jobs are accepted before they are drawn
_WARM_UP = 50  # jobs before the first measurement
_POLL_SECONDS = 0.05
_PATIENCE = 3600  # seconds after which the server may close a connection that takes nothing
_MIB = 1 << 20


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a server: before the jobs, at most, and when all of them have ended."""

    readers: int
    before: int
    most: int
    after: int

    @property
    def growth(self) -> int:
        """Bytes that the jobs and the readers took at most."""
        return self.most - self.before


@click.command()
@click.option("--jobs", default=1000, show_default=True)
@click.option("--steps", default=400, show_default=True, help="Steps of each job.")
@click.option("--previews", default=16, show_default=True, help="Previews of each job.")
@click.option("--readers", default=(0, 1, 100), multiple=True, show_default=True)
def main(jobs: int, steps: int, previews: int, readers: Sequence[int]) -> None:
    """Measure, and print resident memory in MiB."""
    body = {"steps": steps, "previews": previews}
    measured = [measure(number, jobs, body) for number in readers]
    alone = next((each.growth for each in measured if not each.readers), 0)
    rows = []
    for each in measured:
        sizes = (f"{size / _MIB:.1f}" for size in (each.before, each.most, each.after))
        extra = (each.growth - alone) / _MIB / each.readers if each.readers else 0
        rows.append((str(each.readers), *sizes, f"{extra:.2f}" if each.readers else ""))
    click.echo(f"{jobs} jobs of {previews} previews; MiB:")
    click.echo("\n".join(table(_HEADS, rows)))


def measure(readers: int, jobs: int, body: dict[str, int]) -> Memory:
    """Draw jobs while so many clients follow them and never read."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "DARKROOM_STATE_FOLDER": folder,
            "DARKROOM_ANSWER_SECONDS": str(_PATIENCE),
            "DARKROOM_SLOTS": str(_SLOTS),
        }
        arguments = ("-P", str(_SERVER), str(_HERE))
        with ExitStack() as stack:
            server = stack.enter_context(
                running(Server("Darkroom", arguments, "/livez", "/readyz", settings))
            )
            server.wait(server.server.ready)
            draw(server, _WARM_UP, body)
            before = resident(server)
            for _ in range(readers):
                stack.enter_context(never_reading(server.port))
            most = draw(server, jobs, body)
            return Memory(readers, before, most, resident(server))


def draw(server: Running, jobs: int, body: dict[str, int]) -> int:
    """Have jobs drawn; the most resident bytes of the server meanwhile."""
    most = 0
    with httpx.Client(base_url=server.url, headers={"prefer": "respond-async"}) as client:
        for seed in range(jobs):
            answer = client.post("/generate", json={"class": "1", "seed": seed, **body})
            if answer.status_code != 202:
                raise click.ClickException(answer.text)
            most = max(most, resident(server))
        while client.get("/jobs?limit=1&status=queued&status=running").json()["jobs"]:
            most = max(most, resident(server))
            time.sleep(_POLL_SECONDS)
    return most


@contextmanager
def never_reading(port: int) -> Iterator[None]:
    """A client that asks for the events of its jobs, and takes nothing."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /jobs/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        yield


def resident(server: Running) -> int:
    """Resident bytes of the server's process alone."""
    size: int = psutil.Process(server.process.pid).memory_info().rss
    return size


if __name__ == "__main__":
    main()
