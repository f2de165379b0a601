"""How commands begin, and how they tell a user what went wrong: one line, no traceback."""

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from app.engine.errors import EngineError
from models.machine import usable_cores


def open_standard_streams() -> None:
    """Put nothing in place of standard streams that are closed.

    Otherwise the next socket would get the number of one, and printed text would go to it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it is given the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def check_folder() -> None:
    """Raise `Fault` where the working directory was deleted: MKL would end the process later."""
    try:
        Path.cwd()
    except OSError as error:
        raise Fault(
            "the working directory does not exist any more; change to another one"
        ) from error


def share_cores() -> None:
    """Let PyTorch have no more threads than a quota of its control group has time for.

    PyTorch counts the cores and knows nothing of quotas. Processes that are started here inherit
    this.
    """
    cores = usable_cores()
    if hasattr(os, "sched_getaffinity") and cores < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))


class Fault(click.ClickException):
    """Something that the user can mend, told in one line."""

    def format_message(self) -> str:
        return " ".join(self.message.split())


class FiniteRange(click.FloatRange):
    """A range of numbers; click's own lets NaN through."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or an error that names the option."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not in the range {self._describe_range()}.", param, ctx)
        return number


class Numbers(click.ParamType[Any]):
    """Comma-separated numbers, as 10,20,100."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self._kind = kind

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int] | list[float]:
        """The numbers, or an error that names the option."""
        try:
            numbers = [self._kind(part) for part in str(value).split(",")]
            if not all(math.isfinite(number) for number in numbers):
                raise ValueError
            return numbers
        except ValueError:
            kind = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{value!r} is not a comma-separated list of {kind}", param, ctx)


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors users can mend into one line on stderr and exit status 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Fault(f"{error.name} is not installed: make .venv/.train") from error
    except _mendable() as error:
        raise Fault(str(error)) from error


def _mendable() -> tuple[type[Exception], ...]:
    """CheckpointError and DataError are ValueErrors. Imported only where something was raised."""
    from app.errors import RequestError  # with the web framework, half a second of it

    return (ValueError, OSError, EngineError, RequestError)
