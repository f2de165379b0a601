"""The chart of quality: Fréchet distance and accuracy against evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

Row = Sequence[tuple[float, float] | None]  # Fréchet distance and accuracy, where measured


def chart(rows: Mapping[str, Row], evaluations: Sequence[int], path: Path) -> None:
    """Both figures against evaluations, one line for each sampler, into a PNG file."""
    figure, (distance, accuracy) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    for number, (name, row) in enumerate(rows.items()):
        known = [(k, f) for k, f in zip(evaluations, row, strict=True) if f]
        style = {
            "color": pyplot.get_cmap("tab20")(number % 20),
            "marker": "os^Dv<>Ph*X+x1"[number % 14],
            "label": name,
            "linewidth": 1.5,
            "markersize": 5,
        }
        at = [k for k, _ in known]
        distance.plot(at, [values[0] for _, values in known], **style)
        accuracy.plot(at, [100 * values[1] for _, values in known], **style)
    distance.set_yscale("log")
    distance.set_yticks(ticks := (12, 15, 20, 30, 50, 100, 150), [str(tick) for tick in ticks])
    distance.yaxis.set_minor_formatter(NullFormatter())
    dress(distance, evaluations, "Fréchet distance to real digits (less is better)")
    dress(accuracy, evaluations, "Digits that show what was asked for, %")
    lines, names = distance.get_legend_handles_labels()
    figure.legend(lines, names, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def dress(axes: Axes, evaluations: Sequence[int], title: str) -> None:
    """Evaluations along a logarithmic axis, with plain numbers."""
    axes.set_xscale("log")
    axes.set_xticks(evaluations, [str(number) for number in evaluations])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("evaluations of the network per picture")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
