"""Databases that cannot be used: a clear 503 for jobs, all else goes on, and nothing is lost."""

import asyncio
import logging
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sql
from fastapi.testclient import TestClient

from app.errors import StoreUnavailable
from app.jobs.database import Database
from app.jobs.tables import COUNTERS
from app.jobs.waking import Waker
from tests.e2e.live import wait_until
from tests.engine import asynchronous, served
from tests.fakes import FakeRunner
from tests.jobs.helpers import ASYNC, accept, finished
from tests.postgres import Postgres, programs

CAUSES = ["locked", "full", "corrupt", "newer", "gone"]


class Trouble:
    """A store that can be broken and mended: a server over it, and its file."""

    def __init__(self, http: TestClient, runner: FakeRunner, file: Path) -> None:
        self.http, self.runner, self.file = http, runner, file

    @contextmanager
    def locked(self) -> Iterator[None]:
        """By another process's transaction."""
        with closing(sqlite3.connect(self.file, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield

    @contextmanager
    def full(self) -> Iterator[None]:
        """The kernel lets no file of this process grow beyond a page."""
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    @contextmanager
    def corrupt(self) -> Iterator[None]:
        """Another file lies in its place."""
        with self._replaced():
            self.file.write_bytes(b"no database at all" * 1000)
            yield

    @contextmanager
    def newer(self) -> Iterator[None]:
        """A later version was here."""
        with self._replaced() as aside:
            shutil.copytree(aside, self.file.parent, dirs_exist_ok=True)
            with closing(sqlite3.connect(self.file)) as copy:
                copy.execute("UPDATE alembic_version SET version_num = '9999'")
                copy.commit()
            yield

    @contextmanager
    def _replaced(self) -> Iterator[Path]:
        """Its files lie aside; another folder is in the place of theirs."""
        folder, aside = self.file.parent, self.file.parent.with_name("aside")
        folder.rename(aside)
        folder.mkdir()
        yield aside
        shutil.rmtree(folder)
        aside.rename(folder)

    @contextmanager
    def gone(self) -> Iterator[None]:
        """Its folder is no folder any more."""
        folder, aside = self.file.parent, self.file.parent.with_name("aside")
        folder.rename(aside)
        folder.write_bytes(b"")
        yield
        folder.unlink()
        aside.rename(folder)


def assert_refused(answer: httpx.Response) -> str:
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    problem = answer.json()
    assert problem["title"] == "Jobs unavailable"
    told: str = problem["detail"]
    assert len(told) < 300
    assert "\n" not in told
    return told


def assert_the_rest_is_served(http: TestClient) -> None:
    drawn = http.post("/generate", json={"class": "a", "steps": 3, "seed": 5})
    assert drawn.status_code == 200
    assert http.get("/readyz").status_code == http.get("/livez").status_code == 200
    assert http.get("/metrics").status_code == 200


@pytest.mark.parametrize("cause", CAUSES)
def test_while_the_database_cannot_be_used_jobs_wait(
    cause: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is drawn meanwhile is written down when it can be; none is accepted that is not."""
    runner, file = FakeRunner(), tmp_path / "state" / "jobs.db"
    with served(runner, database=f"sqlite:///{file}") as (http, _):
        done = finished(http, accept(http, seed=1).headers["location"])
        runner.gate.hold()
        drawn = accept(http, seed=2).headers["location"]
        wait_until(lambda: http.get(drawn).json()["status"] == "running")
        trouble = Trouble(http, runner, file)
        caplog.set_level(logging.INFO)
        with getattr(trouble, cause)():
            runner.gate.open()
            told = assert_refused(http.post("/generate", json={"class": "a"}, headers=ASYNC))
            assert str(tmp_path) not in told
            keyed = {"idempotency-key": '"k"'}
            assert_refused(http.post("/generate", json={"class": "a"}, headers=keyed))
            if cause != "full":  # what is there can be read
                assert_refused(http.get(drawn))
            assert_refused(http.delete(drawn))
            assert_the_rest_is_served(http)
        told_once = [r for r in caplog.records if "jobs cannot be stored" in r.getMessage()]
        assert len(told_once) == 1
        assert told_once[0].levelno == logging.ERROR
        wait_until(lambda: http.get(drawn).status_code == 200)
        assert finished(http, drawn)["status"] == "succeeded"
        assert http.get(done["result"]["images"][0]["url"]).status_code == 200
        assert finished(http, accept(http, seed=3).headers["location"])["status"] == "succeeded"
        assert len(http.get("/jobs").json()["jobs"]) == 3
        assert [r for r in caplog.records if "can be stored again" in r.getMessage()]
        assert not [r for r in caplog.records if "because of a bug" in r.getMessage()]


def test_a_file_that_was_moved_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "state" / "jobs.db"
    with served(FakeRunner(), database=f"sqlite:///{file}") as (http, _):
        finished(http, accept(http).headers["location"])
        for path in file.parent.iterdir():
            path.unlink()
        assert finished(http, accept(http).headers["location"])["status"] == "succeeded"
        assert len(http.get("/jobs").json()["jobs"]) == 1


@pytest.mark.parametrize("place", ["file/state", "no/such\udcff\n", "x" * 300])
def test_a_state_folder_that_cannot_be_made_turns_off_jobs_alone(
    place: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    with served(FakeRunner(), state_folder=tmp_path / place) as (http, _):
        if "\n" in place:  # a strange name is a name
            assert finished(http, accept(http).headers["location"])["status"] == "succeeded"
            return
        for _ in range(2):
            assert_refused(http.post("/generate", json={"class": "a"}, headers=ASYNC))
            assert_refused(http.get("/jobs"))
        assert_the_rest_is_served(http)
    told = [r.getMessage() for r in caplog.records if "jobs cannot be stored" in r.getMessage()]
    assert len(told) == 1
    assert "other requests are served" in told[0]


def test_no_place_for_a_database_turns_off_jobs_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A user without a home, as in a container."""
    for name in ("DARKROOM_STATE_FOLDER", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    with served(FakeRunner()) as (http, _):
        assert_refused(http.post("/generate", json={"class": "a"}, headers=ASYNC))
        assert_the_rest_is_served(http)
    told = [r.getMessage() for r in caplog.records if "jobs cannot be stored" in r.getMessage()]
    assert len(told) == 1
    assert "DARKROOM_STATE_FOLDER" in told[0]


def test_a_python_without_sqlite_is_an_outage_with_a_reason(tmp_path: Path) -> None:
    code = f"""
import asyncio, logging, sys
sys.modules["_sqlite3"] = None
from app.errors import StoreUnavailable
from app.jobs.database import Database
logging.basicConfig()
database = Database("sqlite:///{tmp_path / "jobs.db"}")
database.check()
try:
    asyncio.run(database.run(lambda connection: None))
except StoreUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("jobs cannot be stored now: ")
    assert done.stderr.count("this Python was built without SQLite") == 1


@pytest.mark.parametrize(
    ("folder", "file"), [(0o700, 0o600), (0o755, 0o600), (0o770, 0o660), (0o2770, 0o660)]
)
def test_the_file_is_for_the_group_where_the_folder_is(
    folder: int, file: int, tmp_path: Path
) -> None:
    """Whatever the umask; also those that SQLite keeps beside it while it is open."""
    tmp_path.chmod(folder)
    before = os.umask(0o077)
    try:
        asyncio.run(_modes(tmp_path / "jobs.db", {file}))
    finally:
        os.umask(before)


async def _modes(file: Path, expected: set[int]) -> None:
    database = Database(f"sqlite:///{file}")
    await database.run(lambda connection: None)
    found = {each.name: each.stat().st_mode & 0o777 for each in file.parent.iterdir()}
    assert found.keys() >= {"jobs.db", "jobs.db-wal"}
    assert set(found.values()) == expected
    await database.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
@pytest.mark.platform
def test_another_user_of_the_group_takes_over() -> None:
    """As OpenShift gives out user ids: whichever they are, their group is 0."""
    with tempfile.TemporaryDirectory() as shared:
        folder = Path(shared)
        folder.chmod(0o770)
        for user in (65533, 65534):
            os.seteuid(user)
            try:
                asyncio.run(_use(f"sqlite:///{folder / 'jobs.db'}"))
            finally:
                os.seteuid(0)
        assert folder.joinpath("jobs.db").stat().st_uid == 65533


@pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")
@pytest.mark.platform
@pytest.mark.parametrize("mode", [0o700, 0o555], ids=["hidden", "read-only"])
@pytest.mark.parametrize("there", [False, True])
def test_a_folder_of_somebody_else_is_no_reason_to_stop(
    mode: int, there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """As for a user id that was given to a container, and owns nothing."""
    with tempfile.TemporaryDirectory() as shared:  # pytest's own is hidden from others
        Path(shared).chmod(0o755)
        folder = Path(shared) / "state"
        folder.mkdir()
        url = f"sqlite:///{folder / 'jobs.db'}"
        if there:
            asyncio.run(_use(url))
        folder.chmod(mode)
        os.seteuid(65534)
        try:
            asyncio.run(_refused(url, begun=there and mode == 0o555))
        finally:
            os.seteuid(0)
    assert len(caplog.records) == 1
    assert "other requests are served" in caplog.text


async def _use(url: str) -> None:
    database = Database(url)
    await database.run(lambda c: c.execute(sql.update(COUNTERS).values(value=1)))
    await database.close()


async def _refused(url: str, *, begun: bool) -> None:
    database = Database(url)
    database.check()
    assert database.begun == begun
    with pytest.raises(StoreUnavailable):
        await database.run(lambda connection: None)
    await database.close()


@pytest.mark.server
def test_jobs_go_on_when_postgresql_is_back(caplog: pytest.LogCaptureFixture) -> None:
    """It is stopped with a job being drawn and one waiting."""
    binaries = programs()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed")
    server, runner = Postgres(binaries), FakeRunner()
    try:
        database = server.create().replace("+psycopg", "")
        with served(runner, database=database) as (http, _):
            runner.gate.hold()
            jobs = [accept(http, seed=k, n=4).headers["location"] for k in range(3)]
            wait_until(lambda: http.get(jobs[0]).json()["status"] == "running")
            server.stop()
            runner.gate.open()
            told = assert_refused(http.post("/generate", json={"class": "a"}, headers=ASYNC))
            assert str(server.folder) not in told
            assert "darkroom" not in told
            assert_refused(http.get(jobs[0]))
            assert_the_rest_is_served(http)
            server.start()
            wait_until(lambda: http.get(jobs[0]).status_code == 200)
            for job in jobs:
                assert finished(http, job)["status"] == "succeeded"
        told_once = [r for r in caplog.records if "jobs cannot be stored" in r.getMessage()]
        assert len(told_once) == 1
    finally:
        server.close()


@pytest.mark.server
@asynchronous
async def test_a_deadlock_is_resolved_by_another_try(postgres: Postgres) -> None:
    """Two transactions that take two locks in opposite order both end as if one had waited."""
    database = Database(postgres.create())
    await database.run(lambda c: c.exec_driver_sql("CREATE TABLE t (k int, v int)"))
    await database.run(lambda c: c.exec_driver_sql("INSERT INTO t VALUES (1, 0), (2, 0)"))
    tries, each_has_one = [], threading.Barrier(2)

    def both(first: int, second: int) -> Any:
        def work(connection: sql.Connection) -> None:
            tries.append(first)
            for k in (first, second):
                connection.exec_driver_sql(f"UPDATE t SET v = v + 1 WHERE k = {k}")
                if k == first and len(tries) <= 2:
                    each_has_one.wait(10)

        return work

    await asyncio.gather(database.run(both(1, 2)), database.run(both(2, 1)))
    values = await database.run(lambda c: c.exec_driver_sql("SELECT v FROM t").scalars().all())
    assert values == [2, 2]
    assert len(tries) > 2
    await database.close()


def test_the_log_names_no_password() -> None:
    for address in ("u:secret@h/n", "h/n?user=u&password=secret"):
        database = Database(f"postgresql+psycopg://{address}")
        assert "secret" not in database.where
        assert "h/n" in database.where


@asynchronous
async def test_a_model_that_a_bug_keeps_from_loading_is_tried_later_and_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Engine:
        timeout = 1.0

        async def described(self, model: str, timeout: float) -> None:
            raise ZeroDivisionError

    engine: Any = Engine()
    waker = Waker(engine, lambda: None)
    for _ in range(3):  # as once per second
        waker.wake(["broken"])
        assert waker._task is not None
        await asyncio.wait([waker._task])
    assert caplog.text.count("broken could not be loaded because of a bug") == 1
