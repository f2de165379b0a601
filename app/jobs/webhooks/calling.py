"""One attempt to call a receiver: at an address that was looked up once and may be called."""

import asyncio
import functools
import ipaddress
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import httpx

from app.http.addresses import Address, Allowance
from app.jobs.webhooks.schedule import retry_after
from app.jobs.webhooks.signing import Signer
from app.jobs.webhooks.targets import Target

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
_MOST_TRIED = 3  # addresses of one host: an IPv6 one may have no way there


@dataclass(frozen=True)
class Message:
    """What is told: the same id at every attempt, and JSON."""

    id: str
    url: str
    body: str


@dataclass(frozen=True)
class Outcome:
    """What came of an attempt: the status of the answer, or why there was none."""

    status: int | None = None
    error: str | None = None
    retry_after: float | None = None  # seconds

    @property
    def delivered(self) -> bool:
        """Whether the receiver has it; a redirect is followed nowhere, and so is a failure."""
        return self.status is not None and HTTPStatus.OK <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants no more calls."""
        return self.status == HTTPStatus.GONE


class Resolver:
    """Looks names up as `look_up` does, each in a thread of its own.

    A lookup cannot be stopped. So none waits for the thread of another one, nor does the end of the
    process.
    """

    def __init__(self, look_up: Callable[..., Sequence[Any]] = socket.getaddrinfo) -> None:
        self._look_up = look_up

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """The addresses of a name, the best first; raises `OSError`."""
        found: Future[Sequence[Any]] = Future()
        found.set_running_or_notify_cancel()  # from now on only the thread ends it

        def look() -> None:
            try:
                found.set_result(self._look_up(host, port, type=socket.SOCK_STREAM))
            except Exception as error:
                found.set_exception(error)

        threading.Thread(target=look, name="resolver", daemon=True).start()
        return [ipaddress.ip_address(each[0]) for *_, each in await asyncio.wrap_future(found)]


class Caller:
    """Calls receivers, each time over a connection of its own, within `seconds`."""

    def __init__(self, allowance: Allowance, signer: Signer, seconds: float) -> None:
        self._allowance, self._signer, self._seconds = allowance, signer, seconds

    async def call(self, message: Message, resolve: Resolve) -> Outcome:
        """Make one attempt. Nothing of the answer's body is read."""
        target = Target.parse(message.url)
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._addresses(target, resolve)
                if not addresses:
                    return Outcome(error="the host has no address that may be called")
                return await self._first_of(addresses, target, message)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(error=f"no answer within {self._seconds:g} seconds")
        except httpx.ConnectError as error:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            return Outcome(error="its certificate is wrong" if untrusted else "no connection")
        except httpx.HTTPError:
            return Outcome(error="the connection ended without an answer")
        except OSError:
            return Outcome(error="the host is not found")

    async def _addresses(self, target: Target, resolve: Resolve) -> Sequence[Address]:
        """The addresses that may be connected to."""
        host = target.host
        found = await resolve(host, target.port) if isinstance(host, str) else [host]
        unlike = dict.fromkeys(found)
        return [each for each in unlike if self._allowance.permits(host, each)][:_MOST_TRIED]

    async def _first_of(
        self, addresses: Sequence[Address], target: Target, message: Message
    ) -> Outcome:
        """What the first address answers that can be connected to."""
        connecting = self._seconds / len(addresses)
        async with httpx.AsyncClient(
            verify=_certificates(),
            timeout=httpx.Timeout(self._seconds, connect=connecting),
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,  # a proxy would look the name up once more
        ) as client:
            for address in addresses[:-1]:
                try:
                    return await self._post(client, address, target, message)
                except (httpx.ConnectError, httpx.ConnectTimeout):
                    continue
            return await self._post(client, addresses[-1], target, message)

    async def _post(
        self, client: httpx.AsyncClient, address: Address, target: Target, message: Message
    ) -> Outcome:
        headers = {
            "Host": target.authority,
            "Content-Type": "application/json",
            "User-Agent": "Darkroom",
            **self._signer.headers(message.id, message.body),
        }
        async with client.stream(
            "POST",
            target.at(address),
            content=message.body.encode(),
            headers=headers,
            extensions={"sni_hostname": str(target.host)},  # whose certificate is wanted
            follow_redirects=False,
        ) as response:
            asked = retry_after(response.headers.get("retry-after"))
            failed = None if response.is_success else f"status {response.status_code}"
            return Outcome(response.status_code, failed, asked)


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Whom to believe: as httpx, and `SSL_CERT_FILE`; made when it is first needed."""
    return httpx.create_ssl_context()
