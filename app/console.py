"""How commands tell a user what went wrong: one line, no traceback."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import click

from app.engine.job import EngineError


class Fault(click.ClickException):
    """Something the user can mend, told in one line."""

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
        raise Fault(f"{error.name} is not installed: pip install '.[train]'") from error
    except _mendable() as error:
        raise Fault(str(error)) from error


def _mendable() -> tuple[type[Exception], ...]:
    """CheckpointError and DataError are ValueErrors. Imported only where something was raised."""
    from app.errors import RequestError  # with the web framework, half a second of it

    return (ValueError, OSError, EngineError, RequestError)
