"""Who asks, and what they may: the one place that knows keys, rates, streams and limits."""

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from starlette.types import Scope

from app.access.allowance import Allowance
from app.access.credentials import presented
from app.access.failures import Failures
from app.access.keyring import Keyring
from app.access.keys import Key
from app.access.limits import NO_LIMITS, RequestLimits
from app.access.rates import Charge, Meter, Rates
from app.access.streams import Streams
from app.errors import Forbidden, LimitExceeded, Unauthenticated
from app.http.origins import is_loopback
from app.http.turns import network_of

log = logging.getLogger(__name__)

_NEEDED = "an API key is needed: send it as `Authorization: Bearer KEY`, or as `X-API-Key`"
_WRONG = "the API key is not one of this server's"
_NO_ADMIN = (
    "this changes the server, and needs an admin key, of which there is none: set"
    " DARKROOM_ADMIN_KEY, or mark a key as admin"
)
_NOT_ADMIN = "this changes the server, and needs an admin key; the key of this request is none"
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"via", b"x-real-ip")


@dataclass(frozen=True)
class Permit:
    """What the client of one request may ask for."""

    limits: RequestLimits = NO_LIMITS
    meter: Meter | None = None  # counts its evaluations, where they are limited
    streams: Streams | None = None  # counts its event streams, where they are limited

    def held(self, client: str, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        """The same events, counted among the open streams of a client.

        Raises:
            LimitExceeded: instead of the first event.
        """
        return self.streams.hold(client, events) if self.streams else events

    def counted(self, work: int) -> AbstractContextManager[Charge]:
        """Count the evaluations of a job that is accepted: see `Meter.counted`."""
        return self.meter.counted(work) if self.meter else nullcontext(Charge())


NO_PERMIT_NEEDED = Permit()


class Admission:
    """Tells who asks. Made once per server."""

    def __init__(
        self,
        keyring: Keyring,
        *,
        allowance: Allowance,
        limits: RequestLimits,
        streams: int,
        max_priority: int,
        local: bool,
    ) -> None:
        """`local`: no machine but this one can reach the server, and no proxy stands before it."""
        self.keyring, self.limits, self.streams = keyring, limits, Streams(streams)
        self._allowance, self._max_priority, self._local = allowance, max_priority, local
        self._rates, self._failures = Rates(), Failures()

    def warn(self, host: str) -> None:
        """Say in the log that a server is open to everybody, where it is."""
        if not self.keyring.required and not is_loopback(host):
            log.warning(
                "it listens at %r, and there are no keys: whoever reaches it may use it"
                " (DARKROOM_API_KEYS, DARKROOM_API_KEYS_FILE)",
                host,
            )

    def recognise(self, scope: Scope) -> str:
        """The client of a request; where it has a right key, that is put into its state.

        What is no key is passed over: many clients must send something where none is needed.
        """
        sent = presented(scope["headers"])
        key = self.keyring.find(sent) if sent else None
        if key is not None:
            scope.setdefault("state", {}).update(key=key, client=key.client)
        return client_in(scope)

    def admit(self, scope: Scope) -> None:
        """Let a request in that was recognised, or that needs no key here.

        Raises:
            Unauthenticated: a key is needed, and there is none, or a wrong one.
            LimitExceeded: too many wrong ones have come from this address.
        """
        if self.keyring.required and key_of(scope) is None:
            raise self._refusal(scope, tried=bool(presented(scope["headers"])))

    def permit(self, scope: Scope) -> Permit:
        """What a request may ask for, once it was recognised."""
        return Permit(self.limits, self.meter(scope), self.streams)

    def meter(self, scope: Scope) -> Meter | None:
        """What counts the evaluations of a request's client; None where they have no limit."""
        key = key_of(scope)
        allowance = key.allowance(self._allowance) if key else self._allowance
        if allowance == Allowance():
            return None
        return Meter(self._rates, client_in(scope), allowance)

    def max_priority(self, scope: Scope) -> int:
        """The highest priority that a request may have."""
        key = key_of(scope)
        return self._max_priority if key is None or key.max_priority is None else key.max_priority

    @property
    def highest_priority(self) -> int:
        """That a request with any of the keys may have."""
        own = [key.max_priority for key in self.keyring.keys if key.max_priority is not None]
        return max([self._max_priority, *own])

    def check_admin(self, scope: Scope) -> None:
        """Raise unless a request may change the server.

        Without any keys, only programs of this machine may, and only if no other machine can reach
        the server.

        Raises:
            Unauthenticated, Forbidden: it has no key; it has no admin key, or there is none.
            LimitExceeded: too many wrong keys have come from this address.
        """
        key = key_of(scope)
        if key is not None and key.admin:
            return
        if key is not None:
            raise Forbidden(_NOT_ADMIN if self.keyring.administered else _NO_ADMIN)
        if self.keyring.administered:
            raise self._refusal(scope, tried=bool(presented(scope["headers"])))
        if not (self._local and _from_here(scope)):
            raise Forbidden(_NO_ADMIN)

    def _refusal(self, scope: Scope, *, tried: bool) -> Exception:
        """Why a request without a right key is refused."""
        if not tried:
            return Unauthenticated(_NEEDED)
        if wait := self._failures.note(network_of(scope)):
            return LimitExceeded("too many wrong API keys came from this address", wait)
        return Unauthenticated(_WRONG, tried=True)


def key_of(scope: Scope) -> Key | None:
    """The right key that a request has."""
    key = scope.get("state", {}).get("key")
    assert key is None or isinstance(key, Key)
    return key


def client_in(scope: Scope) -> str:
    """The one name of a request's client: of its key, or the network of its address."""
    return str(scope.get("state", {}).get("client") or network_of(scope))


def _from_here(scope: Scope) -> bool:
    """Whether a program of this machine asks, and passes on what nobody else asked."""
    forwarded = any(name in _FORWARDED for name, _ in scope["headers"])
    return bool(scope.get("client")) and is_loopback(scope["client"][0]) and not forwarded
