"""The chart of the results: images per second and p95 latency against clients."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.results import Load
from benchmarks.servers import SERVERS

_COLOURS = ("#1f5fa8", "#c4452c", "#d99a1c", "#3a8a5c")
_MARKERS = ("o", "s", "^", "D")


def plot(load: Load, path: Path) -> None:
    """Draw the closed loop of every server into a PNG file."""
    figure, (rate, delay) = pyplot.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name, colour, marker in zip(load.closed, _COLOURS, _MARKERS, strict=False):
        clients = list(load.closed[name])
        figures = list(load.closed[name].values())
        style = {"color": colour, "marker": marker, "label": SERVERS[name].title, "linewidth": 1.8}
        rate.plot(clients, [f.images_per_second for f in figures], **style)
        delay.plot(clients, [f.p95 for f in figures], **style)
    dress(rate, "Throughput: images per second", clients)
    dress(delay, "Latency, 95th percentile: seconds", clients)
    lines, titles = rate.get_legend_handles_labels()
    figure.legend(lines, titles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def dress(axes: Axes, title: str, clients: list[int]) -> None:
    """Logarithmic axes with plain numbers."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(clients, [str(number) for number in clients])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("clients at the same time")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
