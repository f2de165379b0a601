"""All keys of a server, from its settings and from a file that may change."""

import hmac
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from app.access.keys import Key, digest_of, distinct, read_keys, read_secret

log = logging.getLogger(__name__)

_RECHECK = 1.0  # seconds between looks at the file
_LARGEST = 1 << 20  # bytes of it


def read_file(path: Path) -> tuple[Key, ...]:
    """The keys of a file, one per line, as hashes.

    Raises:
        ValueError: it cannot be read, or a line is wrong; it names the file.
    """
    with _naming(path):
        return read_keys(_text(path).splitlines())


def read_hash(path: Path) -> bytes:
    """The digest of the one key in a file, which has its hash; raises as `read_file` does."""
    with _naming(path):
        return read_secret(_text(path).strip(), plain=False)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in what is said of it."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _text(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise ValueError(f"too large; allowed: {_LARGEST} bytes")
    return text


class Keyring:
    """Finds keys by what requests send.

    The file is read again when it has changed. One that is wrong by then changes nothing, and the
    log says so.
    """

    def __init__(
        self,
        keys: Sequence[Key] = (),
        file: Path | None = None,
        admin: Key | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fixed = (*keys, admin) if admin else tuple(keys)
        self._file, self._clock = file, clock
        self.required = bool(keys) or file is not None  # for whatever draws or tells of it
        self._looked, self._stamp = clock(), self._stamp_now()
        self._set(read_file(file) if file else ())

    @property
    def keys(self) -> tuple[Key, ...]:
        """All keys, by now."""
        return tuple(self._keys.values())

    @property
    def administered(self) -> bool:
        """Whether some key may change the server."""
        return any(key.admin for key in self._keys.values())

    def find(self, secrets: Iterable[bytes]) -> Key | None:
        """The first key that one of these is.

        A table is looked into by hash, of which nobody can choose a part; the hash that is found
        is compared in constant time.
        """
        self._refresh()
        for secret in secrets:
            digest = digest_of(secret)
            key = self._keys.get(digest)
            if key is not None and hmac.compare_digest(key.digest, digest):
                return key
        return None

    def _refresh(self) -> None:
        """Read the file again where it has changed."""
        now = self._clock()
        if self._file is None or now - self._looked < _RECHECK:
            return
        self._looked = now
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._set(read_file(self._file))
        except ValueError as error:
            log.error("%s; the keys stay as they were", error)
        else:
            log.info("%s: %d keys", self._file, len(self._keys) - len(self._fixed))

    def _set(self, from_file: Sequence[Key]) -> None:
        self._keys = {key.digest: key for key in distinct((*self._fixed, *from_file))}

    def _stamp_now(self) -> tuple[int, ...]:
        """What differs when the file does; it may be a link that leads elsewhere by now."""
        if self._file is None:
            return ()
        try:
            found = self._file.stat()
        except OSError:
            return ()
        return found.st_ino, found.st_mtime_ns, found.st_size
