"""The database of the jobs: SQLite in a file, or PostgreSQL, used from threads of its own.

It is opened when it is first used, with its tables made or brought up to date, and opened again
after whatever went wrong. Until then, `StoreUnavailable` says why it cannot be used.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from app.errors import StoreUnavailable
from app.jobs.connecting import THREADS, create_engine, make_file, migrate

log = logging.getLogger(__name__)
T = TypeVar("T")

_BUSY_SECONDS = 2.0  # to wait for another connection's lock in SQLite
_BUSY_STILL = 0.1  # where the last transaction failed already: the next ones wait behind this one
_PATIENCE = 5.0  # seconds that a request may wait for a thread
_TRIES = 3  # of a transaction that PostgreSQL ended because of another one
_LONGEST = 200  # characters of a reason
OF_A_STATEMENT = (IntegrityError, DataError)  # errors that say nothing of the database
_IN_THE_WAY = ("40001", "40P01")  # SQLSTATE: cannot be serialized, deadlock


@contextlib.contextmanager
def enduring(what: str) -> Iterator[None]:
    """One round of a loop, which goes on whatever happens; `what` says in the log what did not."""
    try:
        yield
    except StoreUnavailable:
        pass  # the log has it
    except Exception:
        log.exception("%s because of a bug", what)


class Database:
    """Runs functions in transactions, each in a thread; an error becomes `StoreUnavailable`."""

    def __init__(self, address: str | None) -> None:
        self.url = make_url(address) if address else None
        threads = 1 if self.file else THREADS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._opening = threading.Lock()
        self._engine: Engine | None = None
        self._inode: tuple[int, int] | None = None
        self._failure: tuple[float, DBAPIError | OSError] | None = None  # of the last opening
        self._down = self._closed = False

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for a server of its own."""
        local = self.url is not None and self.url.get_backend_name() == "sqlite"
        return Path(self.url.database or "") if self.url and local else None

    @property
    def begun(self) -> bool:
        """Whether there may be jobs in it: a file that does not exist has none."""
        return self.url is not None and (self.file is None or _exists(self.file))

    @property
    def where(self) -> str:
        """What it is, without its password, which may be in the query as well."""
        bare = self.url and self.url.set(query={})
        return bare.render_as_string(hide_password=True) if bare else "no database"

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What a function gives, in a transaction that is durable when this returns.

        Raises:
            StoreUnavailable: it did not happen; or, if the connection broke in the very end, nobody
                knows whether it did.
        """
        if self._closed:
            raise StoreUnavailable("jobs cannot be stored now: the server is stopping")
        loop = asyncio.get_running_loop()
        latest = time.monotonic() + _PATIENCE
        return await loop.run_in_executor(self._threads, self._run, work, latest)

    async def close(self) -> None:
        """Close its connections."""
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._threads, self._dispose, self._engine)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Say in the log if it plainly cannot be written, before anybody needs it."""
        if self.url is None:
            self._told("no folder for it is known; name one by DARKROOM_STATE_FOLDER")
        elif self.file is not None and find_spec("_sqlite3") is None:
            self._told("this Python was built without SQLite")
        elif self.file is not None:
            place, made = self.file, self.file.parent  # what must be there, or be made
            while not _exists(place) and place != place.parent:
                place, made = place.parent, place
            if place != self.file and not place.is_dir():
                self._told(f"{made} cannot be made: {place} is no folder")
            elif not os.access(place, os.W_OK):
                self._told(f"{place} cannot be written")

    def _run(self, work: Callable[[Connection], T], latest: float) -> T:
        if time.monotonic() > latest:
            raise StoreUnavailable("the database of the jobs is too slow")
        try:
            result = self._transacted(work)
        except OF_A_STATEMENT:
            raise
        except (DBAPIError, OSError) as error:
            self._told(_reason(error))
            raise StoreUnavailable(f"jobs cannot be stored now: {_public(error)}") from error
        if self._down:
            self._down = False
            self._dispose(self._engine)  # the next one is patient again
            log.info("jobs can be stored again: %s", self.where)
        return result

    def _transacted(self, work: Callable[[Connection], T]) -> T:
        """What a function gives; again where another transaction was in the way."""
        for attempt in range(1, _TRIES + 1):
            engine = self._opened()
            try:
                with engine.begin() as connection:
                    return work(connection)
            except OF_A_STATEMENT:
                raise
            except DBAPIError as error:
                if attempt < _TRIES and getattr(error.orig, "sqlstate", None) in _IN_THE_WAY:
                    continue
                if isinstance(error, ProgrammingError):
                    log.exception("a statement failed")
                self._dispose(engine)
                raise
            finally:
                if self._engine is not engine:  # another thread gave it up meanwhile
                    engine.pool.dispose()
        raise AssertionError("the last attempt ends it")

    def _told(self, reason: str) -> None:
        if not self._down:
            self._down = True
            told = "jobs cannot be stored (%s): %s; other requests are served"
            log.error(told, self.where, reason)

    def _opened(self) -> Engine:
        """The engine, with its tables made; a file that was moved away is made anew."""
        began = time.monotonic()
        with self._opening:
            engine = self._engine
            if engine is not None and (self.file is None or _inode(self.file) == self._inode):
                return engine
            self._dispose(engine)
            if self._failure and self._failure[0] > began:
                raise self._failure[1]  # while this thread waited; it would wait as long again
            try:
                self._engine = engine = self._open()
            except (DBAPIError, OSError) as error:
                self._failure = time.monotonic(), error
                raise
            self._inode, self._failure = _inode(self.file), None
            return engine

    def _open(self) -> Engine:
        if self.url is None:
            raise OSError("no folder for the database is known; see DARKROOM_STATE_FOLDER")
        if self.file:
            make_file(self.file)
        engine = create_engine(self.url, _BUSY_STILL if self._down else _BUSY_SECONDS)
        try:
            migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return engine

    def _dispose(self, engine: Engine | None) -> None:
        """Close the connections of an engine; the next transaction opens another."""
        if engine is not None:
            if self._engine is engine:
                self._engine = None
            engine.pool.dispose()  # not what other threads use: each does so in the end


def _exists(path: Path) -> bool:
    """Whether something is there; not, where its folder may not be searched."""
    return os.path.exists(path)  # noqa: PTH110  (Path.exists would raise there)


def _inode(file: Path | None) -> tuple[int, int] | None:
    try:
        told = file and file.stat()
    except OSError:
        return None
    return (told.st_dev, told.st_ino) if told else None


def _reason(error: SQLAlchemyError | OSError) -> str:
    """Why it failed, in one line; what libpq says names no password."""
    told = getattr(error, "orig", None) or error
    return " ".join(str(told).split())[:_LONGEST]


def _public(error: DBAPIError | OSError) -> str:
    """Why it failed, for clients: what SQLite says names no path, user or host, unlike others."""
    told = type(getattr(error, "orig", None)).__module__ == "sqlite3"  # which may be missing
    return _reason(error) if told else "the database cannot be used; the log says why"
