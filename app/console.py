"""How commands tell a user what went wrong: one line, no traceback."""

import contextlib
from collections.abc import Iterator

import click


class Fault(click.ClickException):
    """Something the user can mend, told in one line."""

    def format_message(self) -> str:
        return " ".join(self.message.split())


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Turn the errors users can mend into one line on stderr and exit status 1."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise Fault(f"{error.name} is not installed: pip install '.[train]'") from error
    except (ValueError, OSError) as error:  # CheckpointError, DataError, TrainingError among them
        raise Fault(str(error)) from error
