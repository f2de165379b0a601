"""The server's log: a line for each event, with the id of the request that it is about."""

import logging
from contextvars import ContextVar
from typing import Any

request_id: ContextVar[str] = ContextVar("request_id", default="")


class WithRequest(logging.Filter):
    """Put `[id] ` into records that are made while a request is served."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        current = request_id.get()
        record.request = f"[{current}] " if current else ""
        return True


CONFIG: dict[str, Any] = {  # of logging.config.dictConfig
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request": {"()": WithRequest}},
    "formatters": {
        "line": {
            "()": "uvicorn.logging.DefaultFormatter",
            "fmt": "%(levelprefix)s %(request)s%(message)s",
        }
    },
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request"]}
    },
    "loggers": {
        "app": {"level": "INFO"},
        "uvicorn": {"level": "INFO"},
        "python_multipart": {"level": "ERROR"},  # else each broken form is a line
    },
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
