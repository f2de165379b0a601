"""The Markdown of all parts: what it comes to, then every table."""

from collections.abc import Mapping

from benchmarks.device.findings import Cell, Row
from benchmarks.device.running import Ended
from benchmarks.device.summary import summary
from benchmarks.report import table


def markdown(about: Mapping[str, str], results: Mapping[str, Ended]) -> str:
    """All that was found, as one document."""
    lines = ["# The engine on a GPU, measured", ""]
    lines += ["Written by `python -m benchmarks.gpu`; docs/gpu.md explains it.", ""]
    lines += table(("", ""), about.items())
    for title, rows in summary(results).items():
        lines += ["", f"## {title}", "", *rendered(rows)]
    for name, part in results.items():
        lines += ["", f"## {name}", "", f"{part.says} {part.seconds:g} s; {part.how}."]
        for title, rows in part.tables.items():
            lines += ["", f"### {title}", "", *rendered(rows)]
    return "\n".join(lines) + "\n"


def rendered(rows: list[Row]) -> list[str]:
    """A table with a column for everything that any row says."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return table(columns, [[text(row.get(name)) for name in columns] for row in rows])


def text(cell: Cell) -> str:
    """A value as it is read best."""
    if cell is None:
        return "-"
    if isinstance(cell, bool):
        return "yes" if cell else "**no**"
    if isinstance(cell, float):
        return f"{cell:,.4g}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return str(cell).replace("|", "/")
