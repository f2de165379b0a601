"""Jobs of models that come and go: they make them load, and hold up no others meanwhile."""

import asyncio
import dataclasses
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sql
from fastapi.testclient import TestClient

from app.engine import catalogue, keeping
from app.engine.client import EngineClient
from app.engine.job import Asker, Request
from app.engine.ledger import Limits
from app.engine.model_info import ModelInfo, Models
from app.engine.model_runner import ModelRunner
from app.engine.wire import Load
from app.jobs import claims, drawing, waking
from app.jobs.drawing import NotNow, draw
from app.jobs.job import Job, JobStatus
from app.jobs.work import Work
from app.main import create_app
from app.settings import Settings
from tests.e2e.live import wait_until
from tests.engine import LIMITS, asynchronous, begin, running
from tests.fakes import INFO, LOAD, FakeRunner, ThreadWorker, params
from tests.jobs.helpers import accept, finished

HEADER = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
WHOLE = struct.pack("<Q", len(HEADER)) + HEADER + b"\0\0\0\0"


class Shelf:
    """Model files in a folder, a database, and servers over them, one after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.database = folder / "models", f"sqlite:///{folder / 'jobs.db'}"
        self.folder.mkdir()
        self.loads: list[str] = []
        self.broken: set[str] = set()
        self.digests: dict[str, str] = {}  # of the files that were replaced
        self.gate = threading.Event()  # before which the models of the folder do not load
        self.gate.set()
        for name in ("one", "two", "three"):
            self.put(name)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def put(self, name: str) -> None:
        self.path(name).write_bytes(WHOLE)

    def __call__(self, load: Load) -> list[ModelRunner]:
        (name,) = load.models
        self.loads.append(name)
        if name != "fake":
            assert self.gate.wait(20)
        if name in self.broken:
            raise ValueError(f"{name} is broken")
        digest = self.digests.get(name, INFO.digest)
        return [FakeRunner(dataclasses.replace(INFO, name=name, digest=digest))]

    @contextmanager
    def served(self, most: int | None = None) -> Iterator[TestClient]:
        """A server with the model "fake", which stays, and the folder."""
        settings = Settings(
            model_folders=(self.folder,),
            max_loaded=most,
            database=self.database,
        )
        engine = EngineClient(
            msgspec.structs.replace(LOAD, models={"fake": ""}),
            LIMITS,
            lambda load: ThreadWorker(load, self),
            keeping=settings.keeping,
        )
        app = create_app(settings, engine)
        with TestClient(app, base_url="http://localhost") as http:
            wait_until(lambda: engine.ready)
            yield http
            self.gate.set()

    def accepted(self, *models: str, **last: object) -> list[str]:
        """Jobs that a server took and did not draw; `last` is wanted of the last."""
        with self.served() as http:
            http.app.state.jobs.drain(60)  # type: ignore[attr-defined]
            answers = [
                accept(http, model=model, seed=k, **(last if k + 1 == len(models) else {}))
                for k, model in enumerate(models)
            ]
        self.loads.clear()
        return [answer.headers["location"] for answer in answers]

    def claims(self) -> int:
        """How often jobs of the folder's models were claimed."""
        made = sql.create_engine(self.database)
        with made.connect() as connection:
            told = connection.exec_driver_sql("SELECT sum(fence) FROM jobs WHERE model != 'fake'")
            count: int = told.scalar_one()
        made.dispose()
        return count


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    monkeypatch.setattr(catalogue, "_SCAN", 0.0)
    monkeypatch.setattr(keeping, "_FRESH", 0.01)
    monkeypatch.setattr(catalogue, "_AGAIN", 0.1)
    return Shelf(tmp_path)


def assert_drawn(http: TestClient, paths: list[str]) -> None:
    for k, path in enumerate(paths):
        job = finished(http, path)
        assert (job["status"], job["error"]) == ("succeeded", None)
        alone = {"class": "a", "steps": 3, "seed": k, "model": job["model"]}
        file = http.get(job["result"]["images"][0]["url"])
        assert file.content == http.post("/generate", json=alone).content


def test_a_job_makes_its_model_load_after_a_restart(models: Shelf) -> None:
    paths = models.accepted("one", "fake", "two", "one")
    with models.served() as http:
        assert_drawn(http, paths)
    assert sorted(models.loads) == ["fake", "one", "two"]
    assert models.claims() == 3


def test_a_result_is_told_whole_when_its_model_is_gone(models: Shelf) -> None:
    with models.served() as http:
        path = accept(http, model="one", seed=3).headers["location"]
        told = finished(http, path)
        assert told["result"]["parameters"]["class"] == "a"
        assert told["result"]["images"][0]["id"]
    models.path("one").unlink()
    with models.served() as http:
        assert http.get(path).json() == told
    assert models.loads.count("one") == 1


def test_jobs_of_several_models_share_the_place_of_one(models: Shelf) -> None:
    """Each has its turn, though the others have jobs as well."""
    paths = models.accepted(*("one", "two", "three", "fake") * 4)
    with models.served(most=2) as http:
        assert_drawn(http, paths)


def test_jobs_of_replaced_files_end_though_models_share_a_place(
    models: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are claimed until the new files were read, and keep the model from leaving no longer."""
    monkeypatch.setattr(claims, "_REPLACED_SECONDS", 3)
    paths = models.accepted("one", "two", "one", "two")
    models.digests["one"] = "1" * 64
    with models.served(most=2) as http:
        ends = [finished(http, path) for path in paths]
        assert [job["status"] for job in ends] == ["failed", "succeeded"] * 2
        error = "model 'one' is not the one that the job was accepted for"
        assert ends[0]["error"] == ends[2]["error"] == error
        assert models.claims() <= len(paths)


def test_a_model_that_loads_for_long_holds_up_no_other(models: Shelf) -> None:
    paths = models.accepted(*["one"] * 20, *["fake"] * 5)
    models.gate.clear()
    with models.served() as http:
        for path in paths[20:]:
            assert finished(http, path)["status"] == "succeeded"
        wait_until(lambda: "one" in models.loads)
        assert {http.get(path).json()["status"] for path in paths[:20]} == {"queued"}
        models.gate.set()
        assert_drawn(http, paths)


def test_a_job_ends_in_time_though_its_model_still_loads(models: Shelf) -> None:
    """It was claimed by then: no more models may be loaded."""
    (path,) = models.accepted("one", timeout=3)
    models.gate.clear()
    with models.served(most=2) as http:
        wait_until(lambda: http.get(path).json()["status"] == "failed")
        assert http.get(path).json()["error"] == "not done within 3 seconds"


@pytest.mark.parametrize("why", ["broken", "gone"])
def test_jobs_of_a_model_that_does_not_load_wait_and_do_not_spin(
    why: str, models: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried later and later; when it loads again, they are drawn."""
    paths = models.accepted(*["one"] * 20, *["fake"] * 5, "one", timeout=1)
    if why == "broken":
        models.broken.add("one")
    else:
        models.path("one").unlink()
    with models.served() as http:
        for path in paths[20:25]:
            assert finished(http, path)["status"] == "succeeded"
        told = finished(http, paths[25])
        assert (told["status"], told["error"]) == ("failed", "not done within 1 seconds")
        wait_until(lambda: http.app.state.jobs._executor.waker._due)  # type: ignore[attr-defined]
        time.sleep(1.5)
        assert models.claims() == 0
        assert models.loads.count("one") == (1 if why == "broken" else 0)
        assert http.delete(paths[19]).json()["status"] == "canceled"
    models.broken.clear()
    models.put("one")
    monkeypatch.setattr(waking, "_FIRST", 0.1)
    with models.served() as http:
        assert_drawn(http, paths[:19])


def test_a_model_that_comes_back_is_loaded_by_the_same_server(
    models: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "_FIRST", 0.1)
    paths = models.accepted("one")
    models.path("one").unlink()
    with models.served() as http:
        wait_until(lambda: http.app.state.jobs._executor.waker._due)  # type: ignore[attr-defined]
        assert http.get(paths[0]).json()["status"] == "queued"
        models.put("one")
        assert_drawn(http, paths)


@pytest.mark.parametrize("then", [[dataclasses.replace(INFO, digest="1" * 10)], []])
@asynchronous
async def test_a_model_may_change_while_a_job_waits_for_room(
    then: list[ModelInfo], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is not drawn by another model than it was accepted for."""
    monkeypatch.setattr(drawing, "_ROOM_SECONDS", 0.05)
    runner, want = FakeRunner(), params(1)
    work = Work(Request(want), "image/png", None, marked=False).pack()
    job = Job(
        *(1, "id", "owner", "fake", INFO.digest, "native", {}, work, 1, JobStatus.RUNNING),
        datetime.now(UTC),
    )
    runner.gate.hold()
    async with running(runner, limits=Limits(jobs=1, work=10**6, seconds=60)) as client:
        first = begin(client, params(2), asker=Asker("other"))
        others = [begin(client, params(k), asker=Asker("owner")) for k in (3, 4)]
        drawn = asyncio.create_task(draw(client, job, lambda _: None))
        await asyncio.sleep(0.2)
        assert not drawn.done()
        client._ledger.models = Models(then)
        with pytest.raises(NotNow):
            await drawn
        client._ledger.models = Models([INFO])
        runner.gate.open()
        await asyncio.gather(first, *others, return_exceptions=True)
