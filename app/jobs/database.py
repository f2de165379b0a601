"""The database of the jobs: SQLite in a file, or PostgreSQL, used from threads of its own.

It is opened when it is first used, with its tables made or brought up to date, and opened again
after whatever went wrong. Until then, `StoreUnavailable` says why it cannot be used.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from app.errors import StoreUnavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

_THREADS = 4  # to PostgreSQL; SQLite has one writer
_BUSY_SECONDS = 2  # to wait for another connection's lock
_PATIENCE = 5.0  # seconds that a request may wait for a thread
_LOCK = 0x4461726B726F6F6D  # of the migrations: "Darkroom"
_LONGEST = 200  # characters of a reason


class Database:
    """Runs functions in transactions, each in a thread; an error becomes `StoreUnavailable`."""

    def __init__(self, address: str | None) -> None:
        self.url = make_url(address) if address else None
        threads = 1 if self.file else _THREADS
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._engine: Engine | None = None
        self._inode: tuple[int, int] | None = None
        self._down = False

    @property
    def file(self) -> Path | None:
        """SQLite's file; None for a server of its own."""
        local = self.url is not None and self.url.get_backend_name() == "sqlite"
        return Path(self.url.database or "") if self.url and local else None

    @property
    def begun(self) -> bool:
        """Whether there may be jobs in it: a file that does not exist has none."""
        return self.url is not None and (self.file is None or self.file.exists())

    @property
    def where(self) -> str:
        """What it is, without its password."""
        return self.url.render_as_string(hide_password=True) if self.url else "no database"

    async def run(self, work: Callable[[Connection], T]) -> T:
        """What a function gives, in a transaction that is durable when this returns.

        Raises:
            StoreUnavailable: it did not happen; or, if the connection broke in the very end, nobody
                knows whether it did.
        """
        loop = asyncio.get_running_loop()
        latest = time.monotonic() + _PATIENCE
        return await loop.run_in_executor(self._threads, self._run, work, latest)

    async def close(self) -> None:
        """Close its connections."""
        await asyncio.get_running_loop().run_in_executor(self._threads, self._dispose)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def check(self) -> None:
        """Say in the log if it plainly cannot be written, before anybody needs it."""
        if self.url is None:
            self._told("no folder for it is known; name one by DARKROOM_STATE_FOLDER")
        elif self.file is not None:
            place = self.file if self.file.exists() else self.file.parent
            while not place.exists():
                place = place.parent
            if not os.access(place, os.W_OK):
                self._told(f"{place} cannot be written")

    def _run(self, work: Callable[[Connection], T], latest: float) -> T:
        if time.monotonic() > latest:
            raise StoreUnavailable("the database of the jobs is too slow")
        try:
            with self._opened().begin() as connection:
                result = work(connection)
        except (IntegrityError, DataError):
            raise  # of the statement, not of the database
        except (DBAPIError, OSError) as error:
            if isinstance(error, ProgrammingError) and self._engine is not None:
                log.exception("a statement failed")
            self._dispose()
            reason = _reason(error)
            self._told(reason)
            raise StoreUnavailable(f"jobs cannot be stored now: {reason}") from error
        if self._down:
            self._down = False
            log.info("jobs can be stored again: %s", self.where)
        return result

    def _told(self, reason: str) -> None:
        if not self._down:
            self._down = True
            told = "jobs cannot be stored (%s): %s; other requests are served"
            log.error(told, self.where, reason)

    def _opened(self) -> Engine:
        """The engine, with its tables made; a file that was moved away is made anew."""
        if self._engine is not None and self.file and _inode(self.file) != self._inode:
            self._dispose()
        if self._engine is None:
            if self.url is None:
                raise OSError("no folder for the database is known; see DARKROOM_STATE_FOLDER")
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            engine = _engine(self.url)
            try:
                _migrate(engine)
            except BaseException:
                engine.dispose()
                raise
            self._engine, self._inode = engine, _inode(self.file)
        return self._engine

    def _dispose(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        limits = "-c statement_timeout=20000 -c lock_timeout=5000"
        arguments = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "options": limits}
        return sql.create_engine(
            url, pool_size=_THREADS, max_overflow=0, pool_pre_ping=True, connect_args=arguments
        )
    engine = sql.create_engine(url, pool_size=1, connect_args={"timeout": _BUSY_SECONDS})

    @sql.event.listens_for(engine, "connect")
    def connected(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # transactions are ours
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()  # type: ignore[attr-defined]

    @sql.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # a lock taken later could not be waited for

    return engine


def _migrate(engine: Engine) -> None:
    """Run the revisions that were not run yet, while no other server does."""
    from alembic import command  # takes a third of a second
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "app.jobs:migrations")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:  # a revision that is not known here
            raise OSError(f"a newer version of Darkroom made it: {error}") from error


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
