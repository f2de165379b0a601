"""How much of the engine a client may use: evaluations in a time, and at once.

One evaluation is a row of the network: one image at one step, or two rows where it is guided. So a
request counts for what it costs, and not for one.
"""

from dataclasses import dataclass

from models.bounds import brief

MOST = 10**12  # evaluations; a header's integer has 15 digits
_LONGEST = 366 * 86400  # seconds
_NO_LIMIT = "none"


@dataclass(frozen=True)
class Rate:
    """So many evaluations in so many seconds."""

    amount: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.amount} in {self.seconds} seconds"


@dataclass(frozen=True)
class Allowance:
    """What a client may use; None is without limit."""

    rate: Rate | None = None
    concurrency: int | None = None  # evaluations of the requests that have not ended


def read_rate(text: str) -> Rate | None:
    """A rate such as `20000/minute` or `500 per 10 seconds`; `none` is no limit.

    Raises:
        ValueError: it is neither.
    """
    from limits import parse_many

    if text.strip().lower() == _NO_LIMIT:
        return None
    wrong = f"{brief(text)} is not a rate; allowed: such as 20000/minute or 500/10 seconds, or none"
    try:
        rates = parse_many(text[:100])
    except ValueError as error:
        raise ValueError(wrong) from error
    if len(rates) != 1:
        raise ValueError(wrong)
    rate = Rate(rates[0].amount, rates[0].get_expiry())
    if not 0 < rate.amount <= MOST or rate.seconds > _LONGEST:
        raise ValueError(wrong)
    return rate


def read_concurrency(text: str) -> int | None:
    """Evaluations at once; `none` is no limit. Raises `ValueError`."""
    if text.strip().lower() == _NO_LIMIT:
        return None
    digits = text.isascii() and text.isdecimal() and len(text) <= len(str(MOST))
    if not digits or not 0 < int(text) <= MOST:
        raise ValueError(f"must be a whole number from 1 to {MOST}, or none")
    return int(text)
