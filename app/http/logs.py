"""The server's log: a line for each event, with the id of the request that it is about."""

import logging
from contextvars import ContextVar
from typing import Any

from uvicorn.logging import DefaultFormatter

from app.engine.lines import JsonLines, LogFormat, PlainLines

request_id: ContextVar[str] = ContextVar("request_id", default="")


class WithRequest(logging.Filter):
    """Put `[id] ` into records that are made while a request is served."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        record.request_id = current = request_id.get()
        record.request = f"[{current}] " if current else ""
        return True


class ServerLines(PlainLines, DefaultFormatter):
    """uvicorn's lines, which nobody can forge."""


def config(form: LogFormat) -> dict[str, Any]:
    """What logging.config.dictConfig is given."""
    line = {"()": ServerLines, "fmt": "%(levelprefix)s %(request)s%(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request": {"()": WithRequest}},
        "formatters": {"text": line, "json": {"()": JsonLines}},
        "handlers": {
            "stderr": {"class": "logging.StreamHandler", "formatter": form, "filters": ["request"]}
        },
        "loggers": {
            "app": {"level": "INFO"},
            "uvicorn": {"level": "INFO"},
            "python_multipart": {"level": "ERROR"},  # else each broken form is a line
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }
