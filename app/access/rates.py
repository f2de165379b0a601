"""Evaluations of each client, counted as requests begin and end."""

import functools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from app.access.allowance import Allowance
from app.access.headers import policy, remaining
from app.engine.pending import Watch
from app.engine.results import Moved, Update
from app.errors import InvalidRequest, LimitExceeded

if TYPE_CHECKING:
    from app.access.windows import Windows

_SOON = 2  # seconds after which something that runs may have ended


class Rates:
    """What each client has begun in its time, and has under way. One event loop uses it."""

    def __init__(self) -> None:
        self.running: Counter[str] = Counter()  # evaluations under way, by client

    @functools.cached_property
    def windows(self) -> "Windows":
        """Made where there is a rate: to import it takes a tenth of a second."""
        from app.access.windows import Windows

        return Windows()


class Charge:
    """Evaluations that a request has been charged for."""

    begun = False
    repeated = False  # it took no more than an answer that was there

    def watching(self, watch: Watch | None) -> Watch:
        """What notes that it has begun, and tells `watch` everything."""

        def note(update: Update) -> None:
            self.begun = self.begun or isinstance(update, Moved)
            if watch:
                watch(update)

        return note


class Meter:
    """Counts the evaluations of one client."""

    def __init__(self, rates: Rates, client: str, allowance: Allowance) -> None:
        self._rates, self._client = rates, client
        self.rate, self.concurrency = allowance.rate, allowance.concurrency

    def check(self, work: int) -> None:
        """Raise `InvalidRequest` where a request can never be taken, because it is too large."""
        rate = self.rate.amount if self.rate else None
        limits = {"rate": rate, "concurrency": self.concurrency}
        for name, most in limits.items():
            if most is not None and work > most:
                told = (
                    f"asks for {work} evaluations (images times steps, twice that where guided);"
                    f" allowed: {most}, the whole {name} of this client"
                )
                raise InvalidRequest({"": told})

    @contextmanager
    def charged(self, work: int) -> Iterator[Charge]:
        """Hold a request's evaluations while it runs, and count them against the rate.

        Raises:
            LimitExceeded, InvalidRequest: there is no room for it now; there never is.
        """
        running = self._rates.running
        self.check(work)
        if self.concurrency is not None and running[self._client] + work > self.concurrency:
            told = (
                f"{running[self._client]} evaluations of this client are under way, and this asks"
                f" for {work}; allowed: {self.concurrency} at once"
            )
            raise LimitExceeded(told, _SOON)
        with self.counted(work) as charge:
            running[self._client] += work
            try:
                yield charge
            finally:
                running[self._client] -= work
                if not running[self._client]:
                    del running[self._client]

    @contextmanager
    def counted(self, work: int) -> Iterator[Charge]:
        """Count evaluations against the rate; what fails before it begins is given back.

        Raises:
            LimitExceeded, InvalidRequest: not now, and it says when; never.
        """
        self.check(work)
        if self.rate is not None and not self._rates.windows.take(self.rate, self._client, work):
            wait = self._rates.windows.wait(self.rate, self._client, work)
            left = self._rates.windows.left(self.rate, self._client)
            told = f"asks for {work} evaluations, and {left} are left; allowed: {self.rate}"
            raise LimitExceeded(told, wait, self.headers(wait))
        charge, failed = Charge(), True
        try:
            yield charge
            failed = False
        finally:
            if self.rate is not None and (charge.repeated or (failed and not charge.begun)):
                self._rates.windows.give_back(self.rate, self._client, work)

    def headers(self, wait: int | None = None) -> dict[str, str]:
        """What is left, for a client; empty where it has no rate.

        Args:
            wait: seconds until a request that was refused would be taken; else it tells when all
                is there again.
        """
        if self.rate is None:
            return {}
        windows = self._rates.windows
        seconds = windows.reset(self.rate, self._client) if wait is None else wait
        return {
            "RateLimit": remaining(windows.left(self.rate, self._client), seconds),
            "RateLimit-Policy": policy(self.rate.amount, self.rate.seconds),
        }
