"""What metrics, the log of requests and jobs cost of the throughput.

    python -m benchmarks.extras
    python -m benchmarks.extras --rounds 4 --seconds 5 --clients 16

Two servers of the shipped model run at once, one with metrics and the log, one without. They are
measured in turn, so that only one of them works at a time: the plain one, the one as it is by
default, and the same drawing each request as a job, whose end the load generator is told by the one
stream of events. Writes extras.md. All of it takes about six minutes.
"""

import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks.parts import send
from benchmarks.report import table
from benchmarks.results import between_answers, good
from benchmarks.servers import OURS, SERVERS, Running, running
from benchmarks.serving import about

PLAIN, DEFAULT, JOBS = "without metrics and log", "with them, the default", "as jobs"
WITHIN = 0.02  # of the throughput
_PLAIN = {"DARKROOM_METRICS": "off", "DARKROOM_LOG_REQUESTS": "false"}
_RESULTS = Path(__file__).parent / "results"
_HEADS = ("", "images/s", "to the first, median of rounds", "from", "to", "ms of CPU per image")


@click.command()
@click.option("--clients", default=64, show_default=True)
@click.option("--rounds", default=8, show_default=True)
@click.option("--seconds", default=8.0, show_default=True, help="Length of each measurement.")
@click.option("--warmup", default=2.0, show_default=True, help="Seconds before each one.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=_RESULTS)
def main(clients: int, rounds: int, seconds: float, warmup: float, out: Path) -> None:
    """Measure all three in turn, and write the table."""
    rates: dict[str, list[float]] = {name: [] for name in (PLAIN, DEFAULT, JOBS)}
    costs: dict[str, list[float]] = {name: [] for name in rates}
    with (
        TemporaryDirectory() as state,
        running(replace(SERVERS[OURS], settings=_PLAIN | _state(state, "plain"))) as plain,
        running(replace(SERVERS[OURS], settings=_state(state, "default"))) as default,
    ):
        for server in (plain, default):
            server.wait(server.server.ready)
        servers = {PLAIN: plain, DEFAULT: default, JOBS: default}
        for number in range(rounds):
            order = list(rates) if number % 2 else list(reversed(rates))
            for name in order:
                pattern = "as_jobs" if name == JOBS else "closed"
                sizes = {"clients": clients, "seconds": seconds, "warmup": warmup}
                rate, cost = _measure(servers[name], pattern, number, **sizes)
                rates[name].append(rate)
                costs[name].append(cost)
                click.echo(f"  {name}: {rate:.1f} images/s, {cost:.2f} ms")
    rows = []
    for name, each in rates.items():
        ratios = [rate / first for rate, first in zip(each, rates[PLAIN], strict=True)]
        spread = (statistics.median(ratios), min(ratios), max(ratios))
        rows.append(
            (
                name,
                f"{statistics.median(each):.1f}",
                *(f"{ratio:.3f}" for ratio in spread),
                f"{statistics.median(costs[name]):.2f}",
            )
        )
    lines = ["# Metrics, the log and jobs", "", f"Written by `python -m {__spec__.name}`.", ""]
    lines += [*table(("", ""), about(seconds).items()), ""]
    lines += [
        f"{clients} clients; {rounds} rounds, each in turn on one machine. Processor time is that "
        f"of server and worker. Goal: the default has at least {1 - WITHIN:.2f} of the first.",
        "",
    ]
    lines += table(_HEADS, rows)
    out.mkdir(parents=True, exist_ok=True)
    (out / "extras.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    click.echo("\n".join(table(_HEADS, rows)))


def _state(folder: str, name: str) -> dict[str, str]:
    return {"DARKROOM_STATE_FOLDER": f"{folder}/{name}", "DARKROOM_RESULTS_BYTES": str(1 << 24)}


def _measure(server: Running, pattern: str, stream: int, **sizes: float) -> tuple[float, float]:
    """Images per second, and milliseconds of processor time per image.

    Raises:
        click.ClickException: a request failed.
    """
    before = server.cpu_seconds()
    run = send(server.url, pattern, stream=stream, **sizes)
    images = len(good(run.answers))
    if images < len(run.answers):
        raise click.ClickException(f"{len(run.answers) - images} requests failed")
    done = sum(0 < answer.ended <= run.window for answer in run.answers)
    return done / between_answers(run), 1000 * (server.cpu_seconds() - before) / images


if __name__ == "__main__":
    main()
