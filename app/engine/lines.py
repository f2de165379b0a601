"""Lines of the log that nobody can forge: for people, or as JSON; of the server and the worker.

Whatever a client wrote is cut, and what is not printable in it is escaped. So a line is one line.
"""

import json
import logging
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal

LogFormat = Literal["text", "json"]
_MOST, _MOST_TRACE = 8192, 32_768  # characters of a message, and of a traceback

_Excepted = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


def plain(text: str, most: int = _MOST) -> str:
    """At most so many characters, those that are not printable escaped."""
    cut = text if len(text) <= most else text[:most] + "..."
    if cut.isprintable():
        return cut
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


def plain_trace(text: str) -> str:
    """A traceback, every line of it set in: none begins like one of the log's."""
    return "\n".join("    " + plain(line) for line in text[:_MOST_TRACE].split("\n"))


class JsonLines(logging.Formatter):
    """One JSON object per record, in ASCII: time, level, logger, message, and the record's fields.

    What is told with `extra={"fields": ...}` stands beside them.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if request := getattr(record, "request_id", ""):
            told["request_id"] = request
        if fields := getattr(record, "fields", None):
            told |= {name: _short(value) for name, value in fields.items()}
        else:
            told["message"] = _short(record.getMessage())
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)[-_MOST_TRACE:]
        return json.dumps(told, default=str)


class PlainLines(logging.Formatter):
    """As logging's own, but for what a message or an exception says."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  (logging's)
        """The line, without a traceback."""
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _Excepted) -> str:  # noqa: N802  (logging's)
        """A traceback, set in."""
        return plain_trace(super().formatException(ei))


def _short(value: Any) -> Any:
    return value[:_MOST] + "..." if isinstance(value, str) and len(value) > _MOST else value
