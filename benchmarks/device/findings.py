"""What a part has found: tables of rows, on disk after every row. Standard library and click."""

import json
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ParamSpec

import click

P = ParamSpec("P")
Cell = str | int | float | bool | None
Row = dict[str, Cell]
Tables = dict[str, list[Row]]

MINUTES = "not with --small: compiling takes minutes"
MISSING = "Not measured"  # the table of what raised an error, or had no time left
_LONGEST = 400  # characters of a reason


@dataclass(frozen=True)
class Setting:
    """Where a part runs, and whether it only shows that it runs."""

    device: str
    small: bool

    @property
    def cuda(self) -> bool:
        """Whether there is a GPU; otherwise it is faked."""
        return self.device.startswith("cuda")

    @property
    def on(self) -> str:
        """The device of tensors, for PyTorch; with its number, which some calls need."""
        return self.device if ":" in self.device else "cuda:0"

    def sizes(self, *large: int) -> tuple[int, ...]:
        """Numbers of rows to measure, or a few small ones."""
        return (1, 2, 16) if self.small else large


@dataclass
class Findings:
    """The tables of one part; `until` is when it has to end, by `time.monotonic`."""

    file: Path
    until: float
    tables: Tables = field(default_factory=dict)

    @property
    def left(self) -> float:
        """Seconds."""
        return self.until - time.monotonic()

    def add(self, table: str, row: Row) -> None:
        """Keep a row, whatever happens to this process afterwards."""
        self.tables.setdefault(table, []).append(row)
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.tables), encoding="utf-8")
        partial.replace(self.file)
        click.echo(f"  {table}: " + ", ".join(f"{k} {v}" for k, v in row.items()))

    def attempt(
        self,
        table: str,
        labels: Row,
        needs: float,
        measure: Callable[P, Iterable[Row]],
        *arguments: P.args,
        **more: P.kwargs,
    ) -> None:
        """Keep each row that `measure` yields, after `labels`; or else the reason why it ended.

        It is not begun with less than `needs` seconds left.
        """
        what = ", ".join(str(value) for value in labels.values())
        if self.left < needs:
            self.miss(table, what, f"{max(self.left, 0):.0f} s were left")
            return
        try:
            for row in measure(*arguments, **more):
                self.add(table, labels | row)
        except Exception as error:  # whatever it is costs this measurement alone
            traceback.print_exc()
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error}"[:_LONGEST]
            self.miss(table, what, f"{told} ({Path(where.filename).name}:{where.lineno})")

    def miss(self, table: str, what: str, reason: str) -> None:
        """Say what was not measured, and why."""
        self.add(MISSING, {"table": table, "what": what, "reason": " ".join(reason.split())})
