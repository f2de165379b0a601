"""What headers ask of a prediction: how long to wait for it, and when to give it up."""

import re

from fastapi import Request
from starlette.exceptions import HTTPException

from app.engine.job import MAX_TIMEOUT
from app.http.preferences import RESPOND_ASYNC, preferences

CANCEL_AFTER = "Cancel-After"
LONGEST_WAIT = 60  # seconds, https://replicate.com/docs/topics/predictions/create-a-prediction
DURATION = r"(?:(\d{1,2})h)?(?:(\d{1,4})m)?(?:(\d{1,5})s?)?"
_DURATION = re.compile(DURATION, re.ASCII)
_WAIT = "wait"  # RFC 7240, 4.3


def waiting_time(request: Request) -> int:
    """Seconds to wait for the end: 60 by a `wait` without a number, 0 without any `wait`.

    A preference that makes no sense is ignored (RFC 7240, 2), and 60 seconds are the most.
    """
    told = preferences(request).get(_WAIT)
    if not told:
        return 0 if told is None else LONGEST_WAIT
    plain = told.isascii() and told.isdecimal() and len(told) <= 9
    return min(int(told), LONGEST_WAIT) if plain else 0


def preference_applied(request: Request, seconds: int) -> str | None:
    """Which of the preferences is followed, for the header of that name."""
    followed = [RESPOND_ASYNC] if RESPOND_ASYNC in preferences(request) else []
    return ", ".join([*followed, *([f"{_WAIT}={seconds}"] if seconds else [])]) or None


def lifetime(request: Request) -> float | None:
    """Seconds after which a prediction is given up: 30, 30s, 5m, 1h30m; None if it is not.

    https://replicate.com/changelog/2025-10-16-prediction-deadlines

    Raises:
        HTTPException: 400, it is malformed, or too long.
    """
    lines = request.headers.getlist(CANCEL_AFTER)
    if not lines:
        return None
    found = _DURATION.fullmatch(lines[0].strip()) if len(lines) == 1 else None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = (hours * 60 + minutes) * 60 + seconds
    if not 0 < total <= MAX_TIMEOUT:
        allowed = f"a time of 1 to {MAX_TIMEOUT:g} seconds, as 30, 30s, 5m or 1h"
        raise HTTPException(400, f"{CANCEL_AFTER} must be {allowed}")
    return float(total)
