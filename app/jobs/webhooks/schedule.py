"""When a call that failed is made again."""

import email.utils
import math
from dataclasses import dataclass
from datetime import UTC, datetime

from tenacity import AsyncRetrying, RetryCallState, wait_exponential, wait_random_exponential

_FACTOR = 5  # from one wait to the next
_LONGEST = 4 * 3600.0  # seconds
_JITTER = 0.25  # of a wait; so receivers that come back are not called by all at once


@dataclass(frozen=True)
class Schedule:
    """At most so many attempts; the waits between them grow fivefold, up to four hours."""

    attempts: int = 8
    first: float = 5.0  # seconds, before the second attempt

    def wait(self, attempt: int, asked: float | None = None) -> float | None:
        """Seconds from the failure of attempt 1.. to the next one; None if it was the last.

        The receiver may have `asked` for a longer wait (`Retry-After`), up to the longest.
        """
        if attempt >= self.attempts:
            return None
        state = RetryCallState(AsyncRetrying(), None, (), {})
        state.attempt_number = attempt
        steady, random = 1 - _JITTER, _JITTER
        waits = wait_exponential(steady * self.first, steady * _LONGEST, _FACTOR)
        jitter = wait_random_exponential(random * self.first, random * _LONGEST, _FACTOR)
        return max(waits(state) + jitter(state), min(asked or 0.0, _LONGEST))


def retry_after(header: str | None) -> float | None:
    """Seconds that `Retry-After` asks for (RFC 9110, 10.2.3); None if it says nothing of use."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text)
        seconds = (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
