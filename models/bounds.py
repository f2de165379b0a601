"""What a value of a configuration may be: its type, range and length; and how it is shown.

Types are written as `Annotated[int, Range(1, 16)]`. Standard library only.
"""

import reprlib
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_MOST_SHOWN = 100  # characters of a value in a message


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxtuple, self.maxdict = 2, 4, 4, 4
        self.maxstring = self.maxother = 60

    def repr_int(self, x: int, _level: int) -> str:
        """Python refuses to write out a very long number."""
        return repr(x) if x.bit_length() < 1000 else f"a number of {x.bit_length()} bits"


def brief(value: object) -> str:
    """A value as a message shows it: its `repr`, at most about 100 characters."""
    text = _Short().repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."


def size(count: int) -> str:
    """A number of bytes in the units of disks and networks, as 3.4 GB."""
    for unit, many in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= many:
            return f"{count / many:.1f} {unit}"
    return f"{count} bytes"


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `low` itself is not one of them if `above`."""

    low: float
    high: float
    above: bool = False

    def check(self, name: str, value: float) -> None:
        """Raise `ValueError` for a number outside, NaN among them."""
        if not self.low <= value <= self.high or (self.above and value == self.low):
            raise ValueError(f"{name} is {brief(value)}; allowed: {self}")

    def __str__(self) -> str:
        low, high = _decimal(self.low), _decimal(self.high)
        return f"above {low}, up to {high}" if self.above else f"{low} to {high}"


@dataclass(frozen=True)
class Length:
    """Lists of `low` to `high` values."""

    low: int
    high: int

    def check(self, name: str, value: Sequence[object]) -> None:
        """Raise `ValueError` for a shorter or a longer list."""
        if not self.low <= len(value) <= self.high:
            raise ValueError(f"{name} has {len(value)} values; allowed: {self}")

    def __str__(self) -> str:
        return (
            f"{self.low} values" if self.low == self.high else f"{self.low} to {self.high} values"
        )


def check(name: str, value: Any, hint: Any) -> None:
    """Compare a value with its annotation.

    Raises:
        ValueError: another type, or outside its bounds; the message says what is allowed.
    """
    if not _fits(value, hint):
        raise ValueError(f"{name} is {brief(value)}; allowed: {_allowed(hint)}")
    _check_bounds(name, value, hint)


def _check_bounds(name: str, value: Any, hint: Any) -> None:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        _check_bounds(name, value, next(arg for arg in args if _fits(value, arg)))
    elif origin is Annotated:
        kind, *bounds = args
        for bound in bounds:
            bound.check(name, value)
        _check_bounds(name, value, kind)
    elif origin is tuple:
        for item in value:
            _check_bounds(name, item, args[0])


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type of its annotation; bounds aside."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _fits(value, args[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, arg) for arg in args)
    if origin is Literal:
        return any(value == arg and type(value) is type(arg) for arg in args)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(_fits(item, args[0]) for item in value)
    if hint is float:
        return type(value) in (int, float)
    if hint is None or hint is types.NoneType:
        return value is None
    return type(value) is hint


def _allowed(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return ", ".join([_allowed(args[0]), *map(str, args[1:])])
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(arg) for arg in args)
    if origin is Literal:
        return ", ".join(repr(arg) for arg in args)
    if origin is tuple:
        return f"a list of {_allowed(args[0])}"
    return "null" if hint in (None, types.NoneType) else str(hint.__name__)


def _decimal(number: float) -> str:
    """Without an exponent, rounded to millionths."""
    return f"{number:f}".rstrip("0").rstrip(".")
