"""The two databases that jobs are stored in."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.postgres import Postgres, programs

DATABASES = ["sqlite", pytest.param("postgresql", marks=pytest.mark.server)]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL for all tests; each has a database of its own in it."""
    binaries = programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    server = Postgres(binaries)
    yield server
    server.close()


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'store' / 'jobs.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create()
