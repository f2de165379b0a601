"""What the service costs per image, without the model: on a device that takes no time.

    python -m benchmarks.overhead
    python -m benchmarks.overhead --against ../before --rounds 5

The load generator, the server and the worker share the machine, so every microsecond that one of
them saves makes all of them faster. With `--against`, the server of another checkout, such as a git
worktree of an older commit, answers the same requests in turn.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from benchmarks.parts import send
from benchmarks.report import table
from benchmarks.results import between_answers, good
from benchmarks.servers import Running, Server, running

_HERE = Path(__file__).parents[1]
_SERVER = Path(__file__).with_name("free_server.py")
_HEADS = ("", "images/s", "server", "worker", "load generator", "all three")


@dataclass(frozen=True)
class Cost:
    """One measurement; processor time in milliseconds per image."""

    images_per_second: float
    server: float
    worker: float
    load: float

    @property
    def cells(self) -> tuple[str, ...]:
        """As in the table."""
        times = (self.server, self.worker, self.load)
        return f"{self.images_per_second:.0f}", *(f"{ms:.3f}" for ms in (*times, sum(times)))


@click.command()
@click.option(
    "--against",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another checkout, measured in turn with this one.",
)
@click.option("--clients", default=64, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=5.0, show_default=True, help="Length of each measurement.")
@click.option("--warmup", default=1.0, show_default=True, help="Seconds before each one.")
def main(against: Path | None, clients: int, rounds: int, seconds: float, warmup: float) -> None:
    """Measure, and print the medians in milliseconds of processor time per image."""
    checkouts = {"this": _HERE} | ({"against": against.resolve()} if against else {})
    costs: dict[str, list[Cost]] = {name: [] for name in checkouts}
    for number in range(rounds):
        for name, checkout in checkouts.items():
            costs[name].append(measure(checkout, number, clients, seconds, warmup))
            click.echo(f"  {name}: {', '.join(costs[name][-1].cells)}")
    middle = {name: median(measured) for name, measured in costs.items()}
    click.echo("\n".join(table(_HEADS, [(name, *cost.cells) for name, cost in middle.items()])))
    if against:
        pairs = zip(costs["this"], costs["against"], strict=True)
        ratios = [this.images_per_second / other.images_per_second for this, other in pairs]
        click.echo(
            f"images/s, this by against: {statistics.median(ratios):.2f}, of {rounds} pairs "
            f"from {min(ratios):.2f} to {max(ratios):.2f}"
        )


def measure(checkout: Path, stream: int, clients: int, seconds: float, warmup: float) -> Cost:
    """Start the server of a checkout and draw as fast as it goes.

    Raises:
        click.ClickException: a request failed.
    """
    arguments = ("-P", str(_SERVER), str(checkout))
    with running(Server(checkout.name, arguments, "/livez", "/readyz")) as server:
        server.wait(server.server.ready)
        before = processor_seconds(server)
        run = send(
            server.url, "closed", stream=stream, clients=clients, seconds=seconds, warmup=warmup
        )
        after = processor_seconds(server)
    images = len(good(run.answers))
    if images < len(run.answers):
        raise click.ClickException(f"{len(run.answers) - images} requests failed")
    served, worked = (
        1000 * (end - begin) / images for begin, end in zip(before, after, strict=True)
    )
    done = sum(0 < answer.ended <= run.window for answer in run.answers)
    return Cost(done / between_answers(run), served, worked, 1000 * run.cpu / images)


def processor_seconds(server: Running) -> tuple[float, float]:
    """Processor time of the server and of its worker so far."""
    process = psutil.Process(server.process.pid)
    own, workers = process.cpu_times(), process.children()
    return own.user + own.system, sum(sum(worker.cpu_times()[:2]) for worker in workers)


def median(costs: list[Cost]) -> Cost:
    """The median of every figure."""
    return Cost(
        *(
            statistics.median(getattr(cost, name) for cost in costs)
            for name in ("images_per_second", "server", "worker", "load")
        )
    )


if __name__ == "__main__":
    main()
