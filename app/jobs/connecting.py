"""How the databases are connected to, and brought up to date."""

import contextlib
import os
import stat
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import URL, Connection, Engine

THREADS = 4  # to PostgreSQL; SQLite has one writer
_LOCK = 0x4461726B726F6F6D  # of the migrations: "Darkroom"


def create_engine(url: URL, busy: float) -> Engine:
    """What connects to a database; in SQLite it waits `busy` seconds for another's lock.

    Raises:
        OSError: this Python was built without SQLite.
    """
    if url.get_backend_name() != "sqlite":
        # A server that is stopped in the middle of a transaction must not hold its locks for long.
        limits = "-c statement_timeout=20000 -c lock_timeout=5000"
        limits += " -c idle_in_transaction_session_timeout=20000"
        arguments = {"connect_timeout": 5, "tcp_user_timeout": 10_000, "options": limits}
        return sql.create_engine(
            url, pool_size=THREADS, max_overflow=0, pool_pre_ping=True, connect_args=arguments
        )
    try:
        engine = sql.create_engine(url, pool_size=1, connect_args={"timeout": busy})
    except ImportError as error:
        raise OSError("this Python was built without SQLite") from error

    @sql.event.listens_for(engine, "connect")
    def connected(connection: object, _: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # transactions are ours
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()  # type: ignore[attr-defined]

    @sql.event.listens_for(engine, "begin")
    def begun(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")  # a lock taken later could not be waited for

    return engine


def make_file(file: Path) -> None:
    """Make SQLite's file, unless it is there, and its folder.

    Both are for this user alone. In a folder that its group may write, the file is for that group
    as well, so that another user id of the group can take over. SQLite gives its other files
    (`-wal`, `-shm`) the mode of this one. Raises `OSError`.
    """
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder = file.parent.stat()
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if folder.st_mode & stat.S_IWGRP and os.fstat(descriptor).st_gid == folder.st_gid:
                os.fchmod(descriptor, 0o660)
        finally:
            os.close(descriptor)


def migrate(engine: Engine) -> None:
    """Run the revisions that were not run yet, while no other server does.

    Raises:
        OSError: a newer version of Darkroom made the tables.
        DBAPIError: it cannot be done now.
    """
    from alembic import command  # takes a third of a second
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", "app.jobs:migrations")
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # a table may be large
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:  # a revision that is not known here
            raise OSError(f"a newer version of Darkroom made it: {error}") from error
