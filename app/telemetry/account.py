"""What is known of one HTTP request as it ends; one context variable has that which is served."""

import re
import time
from contextvars import ContextVar
from dataclasses import dataclass, field

from app.engine.observer import Drawing

# W3C Trace Context, 3.2: version, trace, parent, flags; ff is no version, and no id is all zeros.
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)
_MOST_DRAWINGS = 64  # that one request may have here


@dataclass
class Account:
    """One request: who asked what, how it was answered, and what was drawn for it."""

    method: str
    request_id: str = ""
    client: str = ""
    trace_id: str = ""  # 32 hexadecimal digits; empty where there is none
    began: float = field(default_factory=time.monotonic)
    began_ns: int = field(default_factory=time.time_ns)  # since the epoch
    ended: float = 0.0  # time.monotonic()
    route: str = ""  # the template of its path; empty where no route has it
    status: int = 0  # 0 until it is answered
    sent: int = 0  # bytes of the body
    reason: str = ""  # why it was refused, or failed; one of `app.errors.REASONS`
    left: bool = False  # the client left before the answer was complete
    drawings: list[Drawing] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """From its beginning to the end of its answer."""
        return self.ended - self.began

    @property
    def open(self) -> bool:
        """Whether it is being served; tasks that it started may go on for longer."""
        return not self.ended

    def add(self, drawing: Drawing) -> None:
        """Note what was drawn for it."""
        if len(self.drawings) < _MOST_DRAWINGS:
            self.drawings.append(drawing)


_current: ContextVar[Account | None] = ContextVar("account", default=None)


def begin(account: Account) -> None:
    """Let the current task and those that it starts work for this request."""
    _current.set(account)


def current() -> Account | None:
    """The request that is being served; None in work that outlives its request, or has none."""
    account = _current.get()
    return account if account and account.open else None


def refuse(reason: str) -> None:
    """Note why the current request is refused, or has failed."""
    if account := current():
        account.reason = reason


def trace_of(traceparent: str) -> str:
    """The id of the trace that a caller takes part in; empty where the header names none."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""
