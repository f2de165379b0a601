"""The keys that a request has with it, wherever its client puts them."""

import base64
import binascii
from collections.abc import Iterable, Iterator

_LONGEST = 1024  # bytes of a header; what is longer is no key of ours
_MOST = 4  # headers that are looked at
_TOKENS = (b"bearer", b"token")  # `Token` is Replicate's


def presented(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """What may be a key in `Authorization` and `X-API-Key`; nothing where none is sent.

    Empty headers count as absent: some clients send `Authorization` without a value.
    """
    found: list[bytes] = []
    looked = 0
    for name, value in headers:
        if name not in (b"authorization", b"x-api-key") or looked == _MOST:
            continue
        if value := value.strip():
            looked += 1
            found += [value] if name == b"x-api-key" else _authorized(value)
    return [each if len(each) <= _LONGEST else b"" for each in found]


def _authorized(value: bytes) -> Iterator[bytes]:
    """The keys of an `Authorization` header, by its scheme (RFC 9110, 11.6.2)."""
    scheme, _, rest = value.partition(b" ")
    kind, rest = scheme.lower(), rest.strip()
    if kind in _TOKENS and rest:
        yield rest
    elif kind == b"basic" and rest:
        yield from _basic(rest)


def _basic(text: bytes) -> Iterator[bytes]:
    """A key as the password (RFC 7617), as the user alone, or as both with the colon."""
    try:
        both = base64.b64decode(text[:_LONGEST], validate=True)
    except binascii.Error:
        yield b""  # no key, but somebody tries one
        return
    user, _, password = both.partition(b":")
    yield password or user
    yield both
