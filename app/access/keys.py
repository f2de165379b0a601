"""API keys: how one is made, and how it is written down as its hash.

A key is 256 random bits, so SHA-256 without salt or stretching keeps it: nobody can try them all.
Passwords are not such keys, and what looks like one is refused.
"""

import dataclasses
import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from app.access.allowance import Allowance, read_concurrency, read_rate
from app.engine.job import MAX_PRIORITY

ADMIN = "admin"  # the name of the key in DARKROOM_ADMIN_KEY
FORM = "NAME: sha256:HASH, then rate=, concurrency=, max_priority= or admin where they differ"
_PREFIX, _HASH = "dk_", "sha256:"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEX = re.compile(r"[0-9a-fA-F]{64}")
_PLAIN = re.compile(r"[!-~]{32,512}")
_SHOWN = 8  # characters of what should be a name, and may be a key
_DIFFERENT = 8  # characters; 32 random hexadecimal digits have fewer once in 10^8 times


@dataclass(frozen=True)
class Key:
    """A key by its SHA-256, and what is allowed to those who have it."""

    name: str
    digest: bytes = field(repr=False)
    admin: bool = False
    max_priority: int | None = None  # the server's where absent
    own: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of an Allowance

    @property
    def client(self) -> str:
        """Whose requests those are that have this key; no address looks like it."""
        return f"key:{self.name}"

    def allowance(self, default: Allowance) -> Allowance:
        """What it may use: its own values, else those of the server."""
        return dataclasses.replace(default, **self.own)

    def line(self) -> str:
        """The key as a line of a file of keys, without what is its own."""
        return f"{self.name}: {_HASH}{self.digest.hex()}"


def make_key(name: str) -> tuple[str, Key]:
    """A new key: what its owner keeps, and what the server does; raises `ValueError`."""
    secret = _PREFIX + secrets.token_urlsafe(32)
    return secret, Key(_named(name), digest_of(secret))


def digest_of(secret: str | bytes) -> bytes:
    """The SHA-256 of a key."""
    return hashlib.sha256(secret.encode() if isinstance(secret, str) else secret).digest()


def read_secret(text: str, *, plain: bool) -> bytes:
    """The digest of what is written for a key: its hash, or the key where `plain` allows one.

    Raises:
        ValueError: it is neither; the message does not repeat it.
    """
    if text.startswith(_HASH) and _HEX.fullmatch(text.removeprefix(_HASH)):
        return bytes.fromhex(text.removeprefix(_HASH))
    if _HEX.fullmatch(text):
        raise ValueError(
            "64 hexadecimal digits may be a key or a hash; allowed: sha256: and the key's SHA-256"
        )
    if text.startswith(_HASH) or not plain:
        raise ValueError("not a hash; allowed: sha256: and 64 hexadecimal digits (darkroom key)")
    if not _PLAIN.fullmatch(text) or len(set(text)) < _DIFFERENT:
        raise ValueError(
            "too weak a key; allowed: 32 to 512 characters without spaces, chosen at random"
            " (darkroom key)"
        )
    return digest_of(text)


def read_key(text: str, *, plain: bool = False) -> Key:
    """A key as it is written: `NAME: sha256:HASH`, and after it what differs for this key.

    Raises:
        ValueError: it is not well formed; the message does not repeat the key.
    """
    name, colon, rest = text.partition(":")
    if not colon or not rest.strip():
        raise ValueError(f"not a key with its name; allowed: {FORM}")
    name = _named(name.strip())
    secret, *options = rest.split()
    try:
        own = _options(options)
        digest = read_secret(secret, plain=plain)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    admin, priority = own.pop("admin", False), own.pop("max_priority", None)
    return Key(name, digest, admin, priority, MappingProxyType(own))


def read_keys(lines: Iterable[str], *, plain: bool = False, each: str = "line") -> tuple[Key, ...]:
    """Keys, one per line; empty lines are left out, and what follows `#` at the start or a space.

    Raises:
        ValueError: with the number of the one that is wrong, of what `each` of them is called.
    """
    keys = []
    for number, line in enumerate(lines, 1):
        text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if text:
            try:
                keys.append(read_key(text, plain=plain))
            except ValueError as error:
                raise ValueError(f"{each} {number}: {error}") from error
    return distinct(keys)


def distinct(keys: Iterable[Key]) -> tuple[Key, ...]:
    """The same keys; raises `ValueError` where two have one name or one hash."""
    names: dict[str, Key] = {}
    owners: dict[bytes, str] = {}
    for key in keys:
        if key.name in names:
            raise ValueError(f"two keys are called {key.name!r}; allowed: a name of its own each")
        if key.digest in owners:
            raise ValueError(f"{owners[key.digest]!r} and {key.name!r} are the same key")
        names[key.name], owners[key.digest] = key, key.name
    return tuple(names.values())


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        allowed = "1 to 64 letters, digits, dots, hyphens and underscores"
        raise ValueError(f"{name[:_SHOWN]!r} is not a name of a key; allowed: {allowed}")
    return name


def _options(options: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in _READERS or (name == "admin") != (option == "admin"):
            allowed = "rate=20000/minute, concurrency=2000, max_priority=5, admin"
            raise ValueError(f"{name[:_SHOWN]!r} is not an option of a key; allowed: {allowed}")
        if name in found:
            raise ValueError(f"{name} is given twice")
        try:
            found[name] = _READERS[name](value)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    return found


def _priority(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or len(text) > 2 or int(text) > MAX_PRIORITY:
        raise ValueError(f"must be a whole number from 0 to {MAX_PRIORITY}")
    return int(text)


_READERS = {
    "admin": lambda _: True,
    "concurrency": read_concurrency,
    "max_priority": _priority,
    "rate": read_rate,
}
