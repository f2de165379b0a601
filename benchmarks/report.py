"""The Markdown of the results."""

import statistics
from collections.abc import Iterable, Sequence

from benchmarks.load import GRACE_SECONDS, LONG_STEPS
from benchmarks.parts import LONG_CLIENTS
from benchmarks.results import PATIENCE, Fairness, Figures, Limit, Load, Previews, Results, Start
from benchmarks.servers import SERVERS

_FIGURES = (
    "images/s", "rows/s", "share of our loop with decoding", "p50 s", "p95 s", "p99 s", "in time",
    "errors", "no answer", "cores used by the server", "load generator's CPU ms per request",
)  # fmt: skip


def markdown(results: Results) -> str:
    """All parts that were measured, as one document."""
    lines = ["# Serving, measured", "", "Written by `make bench`.", ""]
    lines += table(("", ""), results.about.items())
    lines += [
        "",
        "A row is one evaluation of the UNet. An image takes one row per step, or two if guided.",
    ]
    if results.limit:
        lines += limit_section(results.limit)
    if results.load:
        lines += load_sections(results.load)
    if results.fairness:
        lines += fairness_section(results.fairness)
    if results.previews:
        lines += previews_section(results.previews)
    if results.start:
        lines += start_section(results.start)
    if results.memory:
        lines += memory_section(results.memory)
    return "\n".join(lines) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table, one line per entry."""
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def limit_section(limit: Limit) -> list[str]:
    """The bare loops beside the matrix products."""
    best = {name: max(loop, key=loop.__getitem__) for name, loop in loops(limit).items()}
    rows = [
        (
            name,
            best[name],
            f"{loop[best[name]]:.0f}",
            f"{loop[best[name]] * limit.flops_a_row / 1e9:.0f}",
            f"{loop[best[name]] * limit.flops_a_row / limit.flops:.0%}",
        )
        for name, loop in loops(limit).items()
    ]
    ratio = limit.best_of_ours / max(limit.diffusers.values())
    return [
        "",
        "## Limit",
        "",
        "The sampling loops without a server, each at its best batch size. Matrix products reach "
        f"{limit.flops / 1e9:.0f} GFLOP/s in float32; the UNet takes {limit.flops_a_row / 1e6:.1f} "
        f"MFLOP per row. Our loop computes {ratio:.2f} times as many rows/s as diffusers' loop.",
        "",
        *table(("loop", "rows per batch", "rows/s", "GFLOP/s", "share of matrix products"), rows),
    ]


def loops(limit: Limit) -> dict[str, dict[str, float]]:
    """Title -> rows per batch -> rows per second."""
    return {"Darkroom's": limit.ours, "diffusers' UNet and DDIM scheduler": limit.diffusers}


def load_sections(load: Load) -> list[str]:
    """Every server at every load, and our server compared with each of the others."""
    closed = [
        (str(clients), name, *cells(load.closed[name][clients], load.loop.get(clients)))
        for clients in next(iter(load.closed.values()))
        for name in load.closed
    ]
    opened = [
        (f"{rate:g} ({share:.0%})", name, *cells(load.opened[name][rate], None))
        for rate, share in load.shares.items()
        for name in load.opened
        if rate in load.opened[name]
    ]
    yardstick = next(iter(load.closed))
    solo = [
        (name, *(f"{seconds:.3f}" for seconds in times.values()))
        for name, times in load.solo.items()
    ]
    return [
        "",
        "## Load",
        "",
        *[f"- `{name}`: {SERVERS[name].title}" for name in load.closed],
        "",
        "Median seconds per request on an idle server:",
        "",
        *table(("server", *load.solo[yardstick]), solo),
        *loop_lines(load),
        "",
        f"Closed loop: each client sends its next request when it has its answer. In time: within "
        f"{PATIENCE} times the same server's time above. Errors: answers other than 200:",
        "",
        *table(("clients", "server", *_FIGURES), closed),
        *ratios(load),
        "",
        "Open loop: requests at random moments (a Poisson process), at shares of what "
        f"`{yardstick}` reaches with the most clients. In time: by the times of `{yardstick}`, for "
        f"every server. No answer: none {GRACE_SECONDS:g} s after the last request. A dash: the "
        "percentile falls among "
        "those. A server that answered less than half is not tried at higher rates:",
        "",
        *table(("requests/s", "server", *_FIGURES), opened),
    ]


def loop_lines(load: Load) -> list[str]:
    """What our loop makes without a server; nothing if it was not measured."""
    rows = [(str(clients), f"{speed:.0f}") for clients, speed in load.loop.items()]
    title = "Our loop without a server, decoding included, measured before and after our server:"
    return ["", title, "", *table(("requests in flight", "rows/s"), rows)] if rows else []


def cells(figures: Figures, loop: float | None) -> tuple[str, ...]:
    """One measurement, under the headings of `_FIGURES`."""
    return (
        f"{figures.images_per_second:.1f}",
        f"{figures.rows_per_second:.0f}",
        f"{figures.rows_per_second / loop:.0%}" if loop else "-",
        *("-" if p is None else f"{p:.2f}" for p in (figures.p50, figures.p95, figures.p99)),
        f"{figures.in_time:.0%}",
        str(figures.failed),
        str(figures.unanswered),
        f"{figures.server_cores:.2f}",
        f"{figures.load_cpu * 1e3:.2f}",
    )


def ratios(load: Load) -> list[str]:
    """The first server compared with each other one; nothing if there is no other."""
    first, *others = load.closed
    rows = [
        (
            str(clients),
            other,
            ratio(ours.images_per_second, load.closed[other][clients].images_per_second),
            ratio(ours.p95, load.closed[other][clients].p95),
        )
        for clients, ours in load.closed[first].items()
        for other in others
    ]
    head = ("clients", "server", "images/s", "p95")
    title = f"`{first}` divided by each other server (better: images/s above 1, p95 below 1):"
    return ["", title, "", *table(head, rows)] if rows else []


def ratio(a: float | None, b: float | None) -> str:
    """A / b as text; a dash if one is unknown."""
    return f"{a / b:.2f}" if a and b else "-"


def fairness_section(rows: list[Fairness]) -> list[str]:
    """Short requests beside long ones."""
    head = ("clients", "kind of request", "requests", "p50 s, alone", "p50 s", "p95 s",
            "p50 / p50 alone", "p95 / p50 alone", "long requests finished")  # fmt: skip
    body = [
        (
            str(row.clients),
            row.kind,
            str(row.requests),
            f"{row.solo:.3f}",
            *("-" if p is None else f"{p:.3f}" for p in (row.p50, row.p95)),
            ratio(row.p50, row.solo),
            ratio(row.p95, row.solo),
            str(row.long_finished),
        )
        for row in rows
    ]
    return [
        "",
        "## Fairness",
        "",
        f"Our server: {LONG_CLIENTS} clients always draw {LONG_STEPS} steps, while others send "
        "short requests one after the other. Every request of both kinds got its image.",
        "",
        *table(head, body),
    ]


def previews_section(previews: Previews) -> list[str]:
    """What following a request costs, as a ratio within each round."""
    first, plain, *_ = previews.rows_per_second.values()

    def share(speeds: list[float], of: list[float]) -> str:
        return f"{statistics.median(a / b for a, b in zip(speeds, of, strict=True)):.3f}"

    body = [
        (
            name,
            f"{statistics.median(speeds):.0f}",
            f"{min(speeds):.0f} to {max(speeds):.0f}",
            share(speeds, first),
            share(speeds, plain),
        )
        for name, speeds in previews.rows_per_second.items()
    ]
    head = (
        "each asks for",
        "rows/s, median",
        "rows/s, range",
        "ratio to pictures",
        "ratio to events",
    )
    return [
        "",
        "## Previews",
        "",
        f"Our server and {previews.clients} clients, in {len(first)} rounds of all three. Ratio: "
        "the median of the ratios within a round. In every stream steps came in order, with all "
        "previews and one end.",
        "",
        *table(head, body),
    ]


def start_section(start: dict[str, Start]) -> list[str]:
    """Seconds until a server answers, is ready, and has drawn."""
    rows = [
        (
            name,
            *(
                f"{min(seconds):.2f} / {statistics.median(seconds):.2f}"
                for seconds in (times.live, times.ready, times.image)
            ),
        )
        for name, times in start.items()
    ]
    head = ("server", "first answer", "ready", "first image")
    return [
        "",
        "## Start",
        "",
        "Seconds from the start of the process, best / median.",
        "",
        *table(head, rows),
    ]


def memory_section(memory: dict[int, int]) -> list[str]:
    """Resident memory as requests go by."""
    rows = [(f"{count:,}", f"{size / 2**20:.0f}") for count, size in memory.items()]
    _, first, *_, last = memory
    growth = memory[last] / memory[first] - 1
    return [
        "",
        "## Memory",
        "",
        f"Our server with its child processes: {growth:+.1%} from {first:,} to {last:,} requests.",
        "",
        *table(("requests", "resident MiB"), rows),
    ]
